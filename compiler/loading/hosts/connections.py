"""The connections of one process group, which end with a call that failed on a host and begin anew after it.

A host that gives up a call is out of step with the others: it says why, and lets go of its connections,
which ends what waits on them elsewhere. With the next call all of them open new ones.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final, TypeVar

import torch

from ....ir.wording import first_line
from .between_cards import connected
from .pulse import Pulse
from .waiter import Waiter

Result = TypeVar("Result")
IN_FLIGHT: Final = 2
"""Messages to one host that are kept until they have arrived: memory beside what is being computed.

All hosts send and receive in the order of one program, so that no two ever wait for each other.
"""
_SOON: Final = 5e-5
"""Seconds between two looks at whether a card has done something."""
_AT_ONCE: Final = timedelta(milliseconds=1)
_NOTHING: Final = 7
"""The tag of a message that nobody sends: who waits for it never takes a tensor in its place."""


class Ended(Exception):  # noqa: N818  # it is told as another error
    """A process is gone, or a call failed in it."""

    def __init__(self, rank: int | None, words: str | None = None) -> None:
        super().__init__(rank, words)
        self.rank = rank
        self.words = words
        """Why the call failed; None for a process that is gone."""


class Connections:
    """The connections between all ranks, for every model that is loaded in their group."""

    def __init__(self, pulse: Pulse, rank: int, size: int, connect: Callable[[], Any]) -> None:
        self.pulse = pulse
        self._rank = rank
        self._others = tuple(other for other in range(size) if other != rank)
        self._connect = connect
        """Returns a new group of torch when all ranks have come."""
        self._waiter = Waiter()
        self._pending: dict[int, deque[tuple[Any, torch.Tensor]]] = {}
        self._group: Any = None
        self._direct: tuple[str, torch.device] | None = None
        """What carries tensors from card to card, and the card here."""
        self._cards: Any = None
        self._closed = False

    def go_over(self, backend: str, device: torch.device) -> None:
        """Open connections between the cards of all ranks, who all do so, for tensors that are on one."""
        if self._direct != (backend, device):
            self._direct = backend, device
            self._connect_cards()

    def send(self, flat: torch.Tensor, target: int, *, direct: bool = False) -> None:
        """Send bytes to a rank and return at once, as long as few are on their way."""
        pending = self._pending.setdefault(target, deque())
        pending.append((self._start(_distributed().isend, flat, target, direct=direct), flat))
        while len(pending) > IN_FLIGHT:
            self._arrived(pending.popleft()[0], target)

    def receive(self, flat: torch.Tensor, origin: int, *, direct: bool = False) -> None:
        """Fill a tensor with the next bytes of a rank."""
        self._arrived(self._start(_distributed().irecv, flat, origin, direct=direct), origin)

    def exchange(self, value: object) -> list[Any]:
        """Return what every rank gives here, over new connections if there are none."""
        if self._group is None:
            self._begin()
        found: list[Any] = [None] * (1 + len(self._others))
        gather, group = _distributed().all_gather_object, self._group
        self._wait(lambda: gather(found, value, group=group), None)
        return found

    def settle(self) -> None:
        """Return when everything that was sent has arrived."""
        for target, pending in self._pending.items():
            while pending:
                self._arrived(pending.popleft()[0], target)

    def give_up(self, error: BaseException) -> None:
        """Tell the others that a call failed here, or that this process was interrupted."""
        if self._group is None:
            return
        if isinstance(error, Exception):
            self.pulse.tell(first_line(error, 200))
        self._close()

    def _begin(self) -> None:
        if (lost := self.pulse.lost()) is not None:
            raise Ended(lost)
        if self._closed:
            self.pulse.renew()
        self._group = self._wait(self._connect, None)
        self._closed = False
        if self._direct is not None:
            self._connect_cards()

    def _connect_cards(self) -> None:
        if self._direct is not None:
            backend, device = self._direct
            ranks = self._rank, 1 + len(self._others)
            self._cards = self._wait(lambda: connected(backend, *ranks, device), None)

    def _arrived(self, work: Any, other: int) -> None:  # noqa: ANN401  # a work of torch
        """Wait for a message: for gloo's by itself, for a card's until the card has done it."""

        def wait() -> None:
            work.wait()
            while self._group is not None and not work.is_completed():
                time.sleep(_SOON)

        self._wait(wait, other)

    def _close(self) -> None:
        """Let go of what waits, here and on the other hosts.

        A receive that runs out of time is how gloo closes the connections of a group.
        """
        group, cards, self._group, self._cards, self._closed = self._group, self._cards, None, None, True
        if cards is not None:
            with suppress(RuntimeError):  # gloo's has nothing to stop
                cards.abort()
        for rank in () if group is None else self._others:
            try:
                nothing = torch.empty(1, dtype=torch.uint8)
                _distributed().irecv(nothing, rank, group=group, tag=_NOTHING).wait(_AT_ONCE)
            except RuntimeError:
                continue
        self._waiter.settle()
        self._pending.clear()

    def _start(self, start: Callable[..., Any], flat: torch.Tensor, other: int, *, direct: bool) -> Any:  # noqa: ANN401
        group = self._cards if direct else self._group
        if group is None:
            raise self._ended() or Ended(self._rank)
        try:
            return start(flat, other, group=group)
        except RuntimeError:
            error = self._broken(other)
            self._close()
            raise error from None

    def _wait(self, work: Callable[[], Result], other: int | None) -> Result:
        """Run what waits for another rank; one that is gone or gives up ends it."""
        try:
            return self._waiter.run(work, self._ended, lambda _: self._broken(other))
        except BaseException:
            self._close()  # a process that is interrupted is out of step: the others hear of it now
            raise

    def _broken(self, other: int | None) -> Ended:
        """Return why a connection broke, when it is known."""
        if other is None:
            self.pulse.find_out()
        else:
            self.pulse.suspect(other)
        return self._ended() or Ended(other)

    def _ended(self) -> Ended | None:
        failed, lost = self.pulse.failure(), self.pulse.lost()
        if lost is not None:
            return Ended(lost)
        return None if failed is None else Ended(*failed)


def _distributed() -> Any:  # noqa: ANN401  # opened only here, when there are hosts
    import torch.distributed

    return torch.distributed

"""Tensors from host to host: one message each, counted; what waits for a host that is gone is ended.

Both ends know shape and dtype, so nothing but the bytes travels. Sending never waits: a process goes on
with what it computes next. Waiting happens in a thread, so that the process can be interrupted and hears
of hosts that are lost.
"""

from __future__ import annotations

import queue
import threading
import weakref
from collections import Counter, deque
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Final, TypeAlias, TypeVar

import torch

from ....ir import Diagnostic, PlanError
from ....ir.rules.hosts import LOST_HOST
from .pulse import Pulse

Result = TypeVar("Result")
_IN_FLIGHT: Final = 32
"""Messages to one host that are kept until they have arrived."""
_TICK: Final = 0.2
_AT_ONCE: Final = timedelta(milliseconds=1)


class Wire:
    """The connections of one process; hosts are numbered as the plan lists them."""

    def __init__(
        self,
        hosts: Sequence[str],
        me: int,
        group: Any,  # noqa: ANN401  # a process group of torch
        pulse: Pulse,
        ranks: Sequence[int] | None = None,
    ) -> None:
        self.hosts, self.me, self.pulse = tuple(hosts), me, pulse
        self.ranks = tuple(range(len(hosts)) if ranks is None else ranks)
        self.sent: Counter[int] = Counter()
        self.received: Counter[int] = Counter()
        self.messages: Counter[int] = Counter()
        """Tensors that went to or came from each host."""
        self.group = group
        self._pending: dict[int, deque[tuple[Any, torch.Tensor]]] = {}
        self._waiter = Waiter()

    def send(self, tensor: torch.Tensor, target: int) -> None:
        """Send a tensor to a host and return at once."""
        flat = _bytes(tensor.detach().cpu().contiguous())
        self.sent[target] += flat.numel()
        self.messages[target] += 1
        if not flat.numel():
            return
        pending = self._pending.setdefault(target, deque())
        work = self._try(
            target, lambda: self._distributed().isend(flat, self.ranks[target], group=self.group)
        )
        pending.append((work, flat))
        while len(pending) > _IN_FLIGHT:
            self.wait(pending.popleft()[0].wait, target)

    def receive(self, like: torch.Tensor, origin: int, device: torch.device) -> torch.Tensor:
        """Return the next tensor a host sends, shaped like a tensor without values."""
        made = torch.empty(like.shape, dtype=like.dtype)
        flat = _bytes(made)
        self.received[origin] += flat.numel()
        self.messages[origin] += 1
        if flat.numel():
            work = self._try(
                origin, lambda: self._distributed().irecv(flat, self.ranks[origin], group=self.group)
            )
            self.wait(work.wait, origin)
        return made.to(device)

    def exchange(self, value: object) -> list[Any]:
        """Return what every host gives here, in the order of the hosts."""
        found: list[Any] = [None] * len(self.hosts)
        gather = self._distributed().all_gather_object
        self.wait(lambda: gather(found, value, group=self.group), None)
        return [found[rank] for rank in self.ranks]

    def settle(self) -> None:
        """Return when everything that was sent has arrived."""
        for target, pending in self._pending.items():
            while pending:
                self.wait(pending.popleft()[0].wait, target)

    def wait(self, work: Callable[[], Result], other: int | None) -> Result:
        """Run what waits for another host; a host that is gone ends it."""
        try:
            return self._waiter.run(work, self._lost, lambda _: self.failed(other))
        except BaseException:
            self.close()  # a process that is interrupted is out of step: the others hear of it now
            raise

    def close(self) -> None:
        """Let go of what waits, here and on the other hosts; nothing can be sent or received any more.

        A receive that runs out of time is how gloo closes the connections of a group.
        """
        for rank in self.ranks if self._waiter.is_busy() else ():
            if rank != self.ranks[self.me]:
                try:
                    nothing = torch.empty(1, dtype=torch.uint8)
                    self._distributed().irecv(nothing, rank, group=self.group).wait(_AT_ONCE)
                except RuntimeError:
                    continue
        self._waiter.settle()

    def failed(self, other: int | None) -> PlanError:
        """Return the error for a connection that broke."""
        rank = self.ranks[other] if other is not None else self.pulse.found_out()
        return self._error(None if rank is None else self.pulse.blame(rank))

    def _lost(self) -> PlanError | None:
        rank = self.pulse.lost()
        return None if rank is None else self._error(rank)

    def _error(self, rank: int | None) -> PlanError:
        return lost_host(None if rank is None else self.hosts[self.ranks.index(rank)], rank)

    def _try(self, other: int, start: Callable[[], Result]) -> Result:
        try:
            return start()
        except RuntimeError:
            raise self.failed(other) from None

    @staticmethod
    def _distributed() -> Any:  # noqa: ANN401  # opened only here, when there are hosts
        import torch.distributed

        return torch.distributed


def lost_host(host: str | None, rank: int | None) -> PlanError:
    """Return the error that names a host whose process is gone."""
    who = "the process of another host" if rank is None else f"the process of rank {rank}"
    who = who if host is None else f"the process of `{host}` (rank {rank})"
    note = "what was being computed is lost; weights and files are as they were"
    help_ = "start all hosts again with torchrun; the lost one's own output says why it ended"
    return PlanError([Diagnostic(LOST_HOST, f"{who} is gone", notes=(note,), help=help_)])


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)


_Job: TypeAlias = tuple[Callable[[], Any], list[Any], threading.Event]


class Waiter:
    """A thread that waits, so that the one that computes can be interrupted."""

    def __init__(self) -> None:
        self._asked: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._done = threading.Event()
        """Of what was asked last."""
        self._done.set()
        threading.Thread(target=_serve, args=(self._asked,), name="compile-plan-wire", daemon=True).start()
        weakref.finalize(self, self._asked.put, None)  # the thread ends with what asks it

    def run(
        self,
        work: Callable[[], Result],
        lost: Callable[[], PlanError | None],
        failed: Callable[[Exception], PlanError],
    ) -> Result:
        """Return what the work returns; raise what `lost` finds meanwhile, or `failed` when it breaks."""
        box: list[Any] = []
        done = self._done = threading.Event()
        self._asked.put((work, box, done))
        while not done.wait(_TICK):
            error = lost()
            if error is not None:
                raise error
        if isinstance(box[0], Exception):
            raise failed(box[0]) from None
        result: Result = box[0]
        return result

    def is_busy(self) -> bool:
        """Say whether something is waited for."""
        return not self._done.is_set()

    def settle(self) -> None:
        """Wait a moment for what was let go of: a thread inside torch when Python ends would abort it."""
        self._done.wait(5 * _TICK)


def _serve(asked: queue.SimpleQueue[_Job | None]) -> None:
    while (job := asked.get()) is not None:
        work, box, done = job
        try:
            box.append(work())
        except Exception as error:  # noqa: BLE001  # told by the thread that computes
            box.append(error)
        done.set()
        del job, work, box, done

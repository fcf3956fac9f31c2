"""How bytes get to a device beside its computing: by events between two streams, never by waiting.

A mark stands for everything put on a stream so far. Copies wait for the marks of whoever used their
memory before, and computing waits for the mark of the copies; the CPU waits for neither and runs ahead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import torch

from ..blocks import is_card
from ..ring import Mark
from .courier import Courier, Pair

_UNREAD: Final = 512
"""Waits whose length was not asked for yet; older ones are read from the device before more are noted."""


@dataclass(slots=True)
class LaneWaits:
    """What computing has waited for copies."""

    events: deque[tuple[Any, Any]] = field(default_factory=deque["tuple[Any, Any]"])
    """Before and after each wait that was not read yet."""
    seconds: float = 0.0
    """Of those that were."""

    def read(self, *, wait: bool) -> float:
        """Return the seconds of what is over; with ``wait``, of all, when the device is through with them."""
        while self.events and (wait or self.events[0][1].query()):
            before, after = self.events.popleft()
            after.synchronize()
            self.seconds += before.elapsed_time(after) / 1000
        return self.seconds


class Lane(Protocol):
    """What brings bytes to one device."""

    def copy(self, pairs: Iterable[Pair], after: Sequence[Mark]) -> Mark:
        """Copy when the marks are reached; returns the mark of the copies, maybe before they happen."""
        ...

    def carry(self, pairs: Iterable[Pair], after: Sequence[Mark]) -> Mark:
        """Copy from memory the driver does not know; returns when the last copy is under way."""
        ...

    def take_over(self) -> None:
        """Let all that this thread asks of the device from now on happen where the copies do."""
        ...

    def mark(self) -> Mark:
        """Return a mark of what this thread has let the device compute so far."""
        ...

    def join(self, mark: Mark) -> None:
        """Let what this thread computes from here on wait for a mark."""
        ...

    def fills(self, memory: torch.Tensor) -> None:
        """Let memory be nobody else's before the last copy to it is over, even if its owner goes before."""
        ...

    def settle(self) -> None:
        """Return when all copies have happened: then what they copy from and to may go."""
        ...

    def waits(self) -> LaneWaits:
        """Return what tells how long computing has waited for copies since this was last asked."""
        ...


class DirectLane:
    """Copies at once, in the thread that asks: for devices without streams, and the host itself."""

    def copy(self, pairs: Iterable[Pair], after: Sequence[Mark]) -> Mark:
        """Copy; all marks lie in the past."""
        del after
        for source, target in pairs:
            target.copy_(source)

    def carry(self, pairs: Iterable[Pair], after: Sequence[Mark]) -> Mark:
        """Copy; one memory is as good as another here."""
        return self.copy(pairs, after)

    def take_over(self) -> None:
        """Do nothing: there is one place."""

    def mark(self) -> Mark:
        """Return None: what was asked for has happened."""

    def join(self, mark: Mark) -> None:
        """Do nothing: there is nothing to wait for."""

    def fills(self, memory: torch.Tensor) -> None:
        """Do nothing: no copy outlasts its call."""

    def settle(self) -> None:
        """Do nothing: there is nothing under way."""

    def waits(self) -> LaneWaits:
        """Return none: a wait here is one of the thread, which counts it itself."""
        return LaneWaits()


class CudaLane:
    """Copies on a stream of their own."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._side: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._inside = False
        self._courier = Courier(lambda copies: self._put(copies, ()), device)
        self._waits = LaneWaits()

    def copy(self, pairs: Iterable[Pair], after: Sequence[Mark]) -> Mark:
        """Put the copies on the side stream, behind the marks."""
        with self._on_the_side():
            return self._put(pairs, after)

    def carry(self, pairs: Iterable[Pair], after: Sequence[Mark]) -> Mark:
        """Bring the bytes through pinned slots: filling one overlaps with the copy from the other.

        The thread goes to the side stream once, not for each of them: that takes longer than a small copy.
        """
        with self._on_the_side():
            done = self._put((), after)
            for source, target in pairs:
                done = self._courier.bring(source, target) or done
        return done

    def _on_the_side(self) -> AbstractContextManager[object]:
        return nullcontext() if self._inside else torch.cuda.stream(self._side)

    def _put(self, pairs: Iterable[Pair], after: Sequence[Mark]) -> Mark:
        """Copy on this thread's stream, which is the side stream."""
        for mark in after:
            if mark is not None:
                self._side.wait_event(mark)
        for source, target in pairs:
            target.copy_(source, non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record(self._side)
        return done

    def take_over(self) -> None:
        """Make the side stream this thread's own: going there and back for each copy takes longer than it."""
        torch.cuda.set_stream(self._side)
        self._inside = True

    def mark(self) -> Mark:
        """Record an event on the stream this thread computes on."""
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    def join(self, mark: Mark) -> None:
        """Make the computing stream wait; how long it really waits is read later."""
        if mark is None or mark.query():
            return
        stream = torch.cuda.current_stream(self._device)
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        before.record(stream)
        stream.wait_event(mark)
        after.record(stream)
        self._waits.events.append((before, after))
        if len(self._waits.events) > _UNREAD:
            self._waits.read(wait=False)

    def fills(self, memory: torch.Tensor) -> None:
        """Tell the allocator, which else hands memory on in the order of the stream that asked for it."""
        memory.record_stream(self._side)

    def settle(self) -> None:
        """Wait for all that is on the side stream by now."""
        self.copy((), ()).synchronize()

    def waits(self) -> LaneWaits:
        """Return all of them, and begin anew."""
        waits, self._waits = self._waits, LaneWaits()
        return waits


def lane_to(device: torch.device) -> Lane:
    """Return what brings bytes to a device."""
    return CudaLane(device) if is_card(device) else DirectLane()

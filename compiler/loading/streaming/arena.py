"""The streaming buffer of one device: one piece of memory of the planned size, handed out in parts.

What is handed out again is first used when its last user is done: a part keeps the marks of those who
had the memory before. So the device never holds more than the ledger says, and nobody waits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from ..ring import Mark
from .lanes import Lane

ALIGNMENT: Final = 256
"""Bytes; what a card's memory is allocated by, so that kernels see weights as they are used to."""


@dataclass(frozen=True, slots=True)
class Lot:
    """A part of the memory."""

    start: int
    memory: torch.Tensor
    """Bytes."""
    after: Sequence[Mark]
    """What has to be over before they are written to."""

    @property
    def end(self) -> int:
        """One past the last byte."""
        return self.start + self.memory.numel()


class Arena:
    """Hands out the first gap that is large enough; made on the first use."""

    def __init__(self, device: torch.device, nbytes: int, lane: Lane) -> None:
        self._device, self._nbytes, self._lane = device, aligned(nbytes), lane
        self._wanted = self._nbytes
        self._memory: torch.Tensor | None = None
        self._taken: list[Lot] = []
        self._past: list[tuple[int, int, Mark]] = []

    def take(self, nbytes: int) -> Lot | None:
        """Return memory of a size; None if no gap is large enough."""
        if self._wanted > self._nbytes and not self._taken:
            self.drop()
            self._nbytes = self._wanted
        wanted, start = aligned(nbytes), 0
        for lot in (*self._taken, None):
            end = self._nbytes if lot is None else lot.start
            if end - start >= wanted:
                with torch.inference_mode(mode=False):  # else nothing outside of it could be copied there
                    return self._lot(start, wanted)
            start = start if lot is None else lot.end
        return None

    def grow(self, nbytes: int) -> None:
        """Be larger as soon as nothing is handed out."""
        self._wanted = max(self._wanted, aligned(nbytes))

    def give(self, lot: Lot, mark: Mark) -> None:
        """Take memory back that is in use until a mark; None where nothing but copies used it.

        Maybe not even they: then those who had the memory before may still be at it.
        """
        self._taken.remove(lot)
        self._past += [(lot.start, lot.end, each) for each in (lot.after if mark is None else [mark])]

    def drop(self) -> None:
        """Let go of the memory; what is handed out stays valid with its owners."""
        self._memory = None
        self._taken, self._past = [], []

    def _lot(self, start: int, nbytes: int) -> Lot:
        if self._memory is None:
            self._memory = torch.empty(self._nbytes, dtype=torch.uint8, device=self._device)
            self._lane.fills(self._memory)
            self._past = [(0, self._nbytes, self._lane.mark())]  # it may have been somebody else's just now
        end = start + nbytes
        after = to_come(mark for first, last, mark in self._past if first < end and start < last)
        left = [(first, min(last, start), mark) for first, last, mark in self._past if first < start]
        left += [(max(first, end), last, mark) for first, last, mark in self._past if end < last]
        self._past = left
        lot = Lot(start, self._memory[start:end], after)
        self._taken = sorted((*self._taken, lot), key=lambda one: one.start)
        return lot


def to_come(marks: Iterable[Mark]) -> list[Mark]:
    """Return each mark once that is not reached yet: a lot that comes back unused leaves them behind."""
    distinct = {id(mark): mark for mark in marks if mark is not None}
    return [mark for mark in distinct.values() if not mark.query()]


def aligned(nbytes: int) -> int:
    """Return a number of bytes, rounded up to where the next tensor may begin."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT

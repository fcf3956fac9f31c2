"""Slots: memory of the host that is filled in turn, each sent to a card while the next is filled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

from .blocks import Block

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

Mark: TypeAlias = Any
"""An event of a device; None where everything has already happened."""
SLOT: Final = 8 << 20
"""Bytes of a slot: long enough for the link's full rate, short enough to start early.

Threads that fill slots take turns in Python once a slot: it costs each of them some dozens of microseconds,
in which a link of 64 GB/s moves 2 MiB.
"""
SLOTS: Final = 2
"""Of a ring: one is filled while the other is sent."""


class RingSlot:
    """Some bytes of a block, and what used them last."""

    def __init__(self, block: Block, start: int, nbytes: int) -> None:
        self.block, self.nbytes = block, nbytes
        self.memory = block.view(start, start + nbytes)
        """The bytes, to be filled."""
        self.mark: Mark = None
        """Reached when they may be filled again."""
        self._bytes = block.bytes(start, start + nbytes)
        self._typed: dict[torch.dtype, tuple[torch.Tensor, int]] = {}

    def elements(self, dtype: torch.dtype, first: int, nbytes: int) -> torch.Tensor:
        """Return bytes of it as elements; the view of all is made once a dtype."""
        typed = self._typed.get(dtype)
        if typed is None:
            count = self.nbytes // dtype.itemsize
            whole = self._bytes[: count * dtype.itemsize].view(dtype)
            typed = self._typed[dtype] = whole, count
        start, end = first // dtype.itemsize, (first + nbytes) // dtype.itemsize
        return typed[0] if (start, end) == (0, typed[1]) else typed[0][start:end]


class Ring:
    """A few slots in turn; for one thread."""

    def __init__(self, slots: Sequence[RingSlot]) -> None:
        self._slots, self._turn = slots, 0

    @property
    def nbytes(self) -> int:
        """Bytes of each slot."""
        return self._slots[0].nbytes

    def free(self) -> RingSlot:
        """Return the slot whose turn it is, when its card is done with it."""
        self._turn = (self._turn + 1) % len(self._slots)
        slot = self._slots[self._turn]
        if slot.mark is not None:
            slot.mark.synchronize()
        return slot

    def settle(self) -> None:
        """Return when all that was sent has arrived."""
        for slot in self._slots:
            if slot.mark is not None:
                slot.mark.synchronize()

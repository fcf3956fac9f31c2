"""Bytes from pages of files, or other memory the driver does not know, to a card through pinned slots.

While a card copies from one slot, the next is filled, converted on the way where dtypes differ. Only
the thread that fills waits for a slot to be free again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias

import torch

from ..blocks import Block

Mark: TypeAlias = Any
"""An event of a device; None where everything has already happened."""
Pair: TypeAlias = tuple[torch.Tensor, torch.Tensor]
"""What is copied, and the memory it is copied to."""
SLOT: Final = 16 << 20
"""Bytes of a slot: long enough for the link's full rate, short enough to start early."""
_SLOTS: Final = 2


class Courier:
    """A few slots and who used them last."""

    def __init__(self, copy: Callable[[Iterable[Pair]], Mark], slot: int = SLOT) -> None:
        self._copy = copy
        self._slots = [Block(slot) for _ in range(_SLOTS)]
        self._memory = [block.bytes(0, slot) for block in self._slots]
        for block in self._slots:
            block.register()
        self._marks: list[Mark] = [None] * _SLOTS
        self._turn = 0

    def bring(self, source: torch.Tensor, target: torch.Tensor) -> Mark:
        """Copy a tensor to one of its shape; returns the mark of the last copy, None for no elements."""
        flat, room = source.reshape(-1), target.view(-1)
        count = self._memory[0].numel() // room.element_size()
        mark: Mark = None
        for first in range(0, room.numel(), count):
            part = flat[first : first + count]
            slot = self._free(part.numel() * room.element_size()).view(room.dtype)
            slot.copy_(part)
            mark = self._copy([(slot, room[first : first + count])])
            self._marks[self._turn] = mark
        return mark

    def _free(self, nbytes: int) -> torch.Tensor:
        """Return bytes of the slot whose turn it is, when the device is done with it."""
        self._turn = (self._turn + 1) % _SLOTS
        if self._marks[self._turn] is not None:
            self._marks[self._turn].synchronize()
        return self._memory[self._turn][:nbytes]

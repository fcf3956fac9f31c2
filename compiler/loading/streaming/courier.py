"""Bytes from pages of files, or other memory the driver does not know, to a card through pinned slots.

While a card copies from one slot, the next is filled, converted on the way where dtypes differ. Only
the thread that fills waits for a slot to be free again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

import torch

from ..ring import SLOT, Mark, Ring

Pair: TypeAlias = tuple[torch.Tensor, torch.Tensor]
"""What is copied, and the memory it is copied to."""


class Courier:
    """Fills a ring and has it sent."""

    def __init__(self, copy: Callable[[Iterable[Pair]], Mark], slot: int = SLOT) -> None:
        self._copy, self._ring = copy, Ring(slot)

    def bring(self, source: torch.Tensor, target: torch.Tensor) -> Mark:
        """Copy a tensor to one of its shape; returns the mark of the last copy, None for no elements."""
        flat, room = source.reshape(-1), target.view(-1)
        count = self._ring.nbytes // room.element_size()
        mark: Mark = None
        for first in range(0, room.numel(), count):
            part = flat[first : first + count]
            slot = self._ring.free(part.numel() * room.element_size()).view(room.dtype)
            slot.copy_(part)
            self._ring.filled()
            mark = self._copy([(slot, room[first : first + count])])
            self._ring.sent(mark)
        return mark

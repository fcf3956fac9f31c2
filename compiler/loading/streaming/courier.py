"""Bytes from pages of files, or other memory the driver does not know, to a card through pinned slots.

While a card copies from one slot, the next is filled, converted on the way where dtypes differ. Only
a thread that fills waits for a slot to be free again. Those of a forward and the one that prepares what
follows take turns slot by slot: each has one to itself from filling it to having it sent.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Final, TypeAlias

import torch

from ..blocks import Block
from ..ring import SLOTS, Mark, Ring, RingSlot

Pair: TypeAlias = tuple[torch.Tensor, torch.Tensor]
"""What is copied, and the memory it is copied to."""
_SLOT: Final = 16 << 20
"""Bytes of a slot: one thread fills them, so that the larger, the less it does beside copying."""


class Courier:
    """Fills a ring and has it sent."""

    def __init__(
        self, copy: Callable[[Iterable[Pair]], Mark], card: torch.device | None = None, nbytes: int = _SLOT
    ) -> None:
        """Send by ``copy``, from slots that the driver of a card knows or from plain memory."""
        self._copy, self._card = copy, card
        self._nbytes, self._turn = nbytes, threading.Lock()

    def bring(self, source: torch.Tensor, target: torch.Tensor) -> Mark:
        """Copy a tensor to one of its shape; returns the mark of the last copy, None for no elements."""
        if target.nbytes <= self._nbytes:
            with self._turn:
                return self._send(source, target) if target.numel() else None
        flat, room = source.reshape(-1), target.view(-1)
        count = self._nbytes // room.element_size()
        mark: Mark = None
        for first in range(0, room.numel(), count):
            with self._turn:
                mark = self._send(flat[first : first + count], room[first : first + count])
        return mark

    def _send(self, part: torch.Tensor, room: torch.Tensor) -> Mark:
        slot = self._ring.free()
        landing = slot.elements(room.dtype, 0, room.nbytes)
        landing = landing if landing.shape == part.shape else landing.view(part.shape)
        landing.copy_(part)
        if self._card is not None:
            slot.block.register(self._card)  # once; a slot that was filled has its pages
        try:
            slot.mark = self._copy([(landing, room)])
        except BaseException:  # an interrupt: the copy may be under way all the same
            slot.mark = self._copy(())
            raise
        return slot.mark

    @cached_property
    def _ring(self) -> Ring:
        """Made on the first use: many lanes carry nothing."""
        return Ring([RingSlot(Block(self._nbytes), 0, self._nbytes) for _ in range(SLOTS)])

"""The slots that reading threads fill for cards, and what each of the threads sends from them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from ..machine import pages
from .blocks import Block, is_card
from .ring import SLOT, SLOTS, Mark, Ring, RingSlot
from .streaming.lanes import Lane, lane_to

if TYPE_CHECKING:
    import torch

    from .streaming.courier import Pair


_THREADS: Final = 16
"""The most threads that fill slots: one core copies a sixteenth of what a fast link takes, beside others."""


def sending_threads() -> int:
    """Return how many threads fill slots for devices on this machine."""
    return min(_THREADS, os.cpu_count() or 1)


def first_card(devices: Iterable[torch.device]) -> torch.device | None:
    """Return the first device whose driver has to know what it is sent."""
    return next((device for device in devices if is_card(device)), None)


def slots_ahead(sizes: Sequence[tuple[torch.device, int]]) -> Slots | None:
    """Get slots ready for bytes that will be sent to devices, where they are many."""
    threads = sending_threads()
    if sum(nbytes for _, nbytes in sizes) < threads * SLOTS * SLOT:
        return None
    return Slots(SLOT, threads, first_card(device for device, _ in sizes))


class Slots:
    """The slots of some threads: one block, got ready beside what the caller does meanwhile.

    Its pages come, and the driver of a card gets to know them, by one call of each: slot by slot it takes
    longer, and the threads that read would wait for each other.
    """

    def __init__(self, nbytes: int, threads: int, card: torch.device | None) -> None:
        """Get slots of so many bytes ready; ``card`` is one whose driver has to know them."""
        self.threads, self._nbytes = threads, nbytes
        self._block = Block(nbytes * SLOTS * threads)
        self._getting = threading.Thread(
            target=_get_ready, args=(self._block, threads, card), name="compile-plan-slots", daemon=True
        )
        self._getting.start()

    def ring(self, number: int) -> Ring:
        """Return the slots of one thread, when they are ready."""
        self._getting.join()
        firsts = range(number * SLOTS * self._nbytes, (number + 1) * SLOTS * self._nbytes, self._nbytes)
        return Ring([RingSlot(self._block, first, self._nbytes) for first in firsts])


def _get_ready(block: Block, threads: int, card: torch.device | None) -> None:
    pages.populate(block.address, block.nbytes, threads)
    if card is not None:
        block.register(card)


class Sender:
    """What one reading thread sends: from its slots in turn, for each device on a lane of its own."""

    def __init__(self, ring: Ring) -> None:
        self._ring = ring
        self._lanes: dict[torch.device, tuple[Lane, Mark]] = {}
        """With what copies on each were put behind last."""

    def free(self) -> RingSlot:
        """Return a slot to fill, when what was in it has arrived."""
        return self._ring.free()

    def send(self, device: torch.device, slot: RingSlot, pairs: Sequence[Pair], before: Mark) -> None:
        """Let the device copy parts of the slot to where they belong; where dtypes differ, it converts.

        It does so when ``before`` is reached: the memory may have been somebody else's.
        """
        lane, behind = self._lanes.get(device, (None, None))
        if lane is None:
            lane = lane_to(device)
            lane.take_over()
        slot.mark = lane.copy(pairs, () if before is behind else (before,))
        self._lanes[device] = lane, before

    def settle(self) -> None:
        """Return when all copies have happened."""
        self._ring.settle()

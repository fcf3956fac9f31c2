"""A ring of slots: memory the driver knows, filled in turn, each sent to a card while the next is filled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

from .blocks import Block

if TYPE_CHECKING:
    import torch

Mark: TypeAlias = Any
"""An event of a device; None where everything has already happened."""
SLOT: Final = 16 << 20
"""Bytes of a slot: long enough for the link's full rate, short enough to start early.

Threads that fill slots take turns in Python once a slot: on an H200 eight of them sent 12 GB/s with slots of
2 MiB, 21 with 4, 31 with 8.
"""
_SLOTS: Final = 2


class Ring:
    """A few slots and who used them last; for one thread."""

    def __init__(self, nbytes: int = SLOT, *, known: bool = True) -> None:
        """Make slots of so many bytes; ``known`` to the driver of cards, or just memory."""
        self.nbytes = nbytes
        self._known = known
        self._blocks = [Block(nbytes) for _ in range(_SLOTS)]
        self._marks: list[Mark] = [None] * _SLOTS
        self._turn = 0

    def free(self, nbytes: int) -> torch.Tensor:
        """Return bytes of the slot whose turn it is, when its card is done with it."""
        self._turn = (self._turn + 1) % _SLOTS
        if self._marks[self._turn] is not None:
            self._marks[self._turn].synchronize()
        return self._blocks[self._turn].bytes(0, nbytes)

    def filled(self) -> None:
        """Let the driver know the slot, once.

        It would bring the pages of new memory one by one, in the thread that asks; a slot that was filled
        has them, and threads that fill at the same time share that work.
        """
        if self._known:
            self._blocks[self._turn].register()

    def sent(self, mark: Mark) -> None:
        """Note when the slot is free again."""
        self._marks[self._turn] = mark

    def settle(self) -> None:
        """Return when all that was sent has arrived."""
        for mark in self._marks:
            if mark is not None:
                mark.synchronize()

"""Rows used last of a module's tables, kept where it runs; who has not been used longest makes room."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch

from .lanes import Lane
from .streamed import Streamed


class RowCache:
    """Slots for rows on one device, the same slot in the memory of every table."""

    def __init__(self, tables: Sequence[Streamed], slots: int) -> None:
        self.slots = slots
        self._tables = tuple(tables)
        self._memory: dict[int, torch.Tensor] = {}
        self._stamps: list[tuple[tuple[int, int], bytes]] = []
        self._slot_of: OrderedDict[int, int] = OrderedDict()

    def memory(self, one: Streamed, lane: Lane) -> torch.Tensor:
        """Return all slots of a table, made when it is first asked for, that a lane fills."""
        if id(one) not in self._memory:
            shape = (self.slots, *one.rest.shape[1:])
            self._memory[id(one)] = torch.empty(shape, dtype=one.dtype, device=one.device)
            lane.fills(self._memory[id(one)])
        return self._memory[id(one)]

    def place(self, rows: Sequence[int]) -> tuple[list[int], list[tuple[int, int]]]:
        """Give rows their slots, at most as many as there are; returns those, and what must be brought."""
        stamps = [(one.stamp, one.look()) for one in self._tables]
        if stamps != self._stamps:  # somebody wrote to what is at rest
            self._slot_of.clear()
            self._stamps = stamps
        missing = [row for row in rows if row not in self._slot_of]
        for row in rows:
            if row in self._slot_of:
                self._slot_of.move_to_end(row)
        brought: list[tuple[int, int]] = []
        for row in missing:
            full = len(self._slot_of) == self.slots
            slot = self._slot_of.popitem(last=False)[1] if full else len(self._slot_of)
            self._slot_of[row] = slot
            brought.append((row, slot))
        return [self._slot_of[row] for row in rows], brought

    def forget(self) -> None:
        """Let go of every row, as when bringing one failed."""
        self._slot_of.clear()

    def drop(self) -> None:
        """Let go of the memory."""
        self.forget()
        self._memory.clear()

"""Rows used last of a module's tables, kept where it runs; who has not been used longest makes room."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from .arena import to_come
from .row_copies import send
from .row_views import RowViews
from .streamed import Stamp, Streamed, as_parameter

if TYPE_CHECKING:
    from ..ring import Mark
    from .lanes import Lane
    from .row_copies import Place


class RowCache:
    """Slots for rows on one device, the same slot in the memory of every table."""

    def __init__(self, tables: Sequence[Streamed], slots: int) -> None:
        self.slots = slots
        self._tables = tuple(tables)
        self._stamps: list[tuple[Stamp, bytes]] = []
        self._slot_of: OrderedDict[int, int] = OrderedDict()
        self._rooms: list[tuple[Streamed, RowViews]] = []
        self._lane: Lane | None = None
        self._used: list[Mark] = []
        self.values: Sequence[torch.Tensor] = ()
        """What a module is lent in the places of its tables: all slots."""
        self.filled: Mark = None
        """What computing has to wait for: copies, maybe for another thread."""

    def place(self, rows: Sequence[int]) -> tuple[list[int], list[Place]]:
        """Give rows their slots, at most as many as there are; returns those, and what must be brought."""
        stamps = [(one.stamp, one.look()) for one in self._tables]
        if stamps != self._stamps:  # somebody wrote to what is at rest
            self._slot_of.clear()
            self._stamps = stamps
        slot_of = self._slot_of
        missing = [row for row in rows if row not in slot_of]
        for row in rows:
            if row in slot_of:
                slot_of.move_to_end(row)
        brought: list[Place] = []
        for row in missing:
            slot = slot_of.popitem(last=False)[1] if len(slot_of) == self.slots else len(slot_of)
            slot_of[row] = slot
            brought.append((row, slot))
        return [slot_of[row] for row in rows], brought

    def fill(self, brought: Sequence[Place], lane: Lane) -> None:
        """Have rows copied to their slots, whose memory is made when it is first needed."""
        if not self._rooms:
            self._make(lane)
        if brought:
            self.filled = send(lane, self._rooms, brought, self._used)

    def was_used(self) -> None:
        """Note that what this thread has let the device compute so far may use any slot."""
        if self._lane is not None:
            self._used = to_come((*self._used, self._lane.mark()))

    def forget(self) -> None:
        """Let go of every row, as when bringing one failed."""
        self._slot_of.clear()

    def drop(self) -> None:
        """Let go of the memory."""
        self.forget()
        self._rooms, self.values = [], ()

    def _make(self, lane: Lane) -> None:
        rooms, values = [], []
        for one in self._tables:
            memory = torch.empty((self.slots, *one.rest.shape[1:]), dtype=one.dtype, device=one.device)
            lane.fills(memory)
            rooms.append((one, RowViews(memory)))
            values.append(stand_in(one, memory))
        self._lane, self._used = lane, [lane.mark()]  # it may have been somebody else's just now
        self._rooms, self.values = rooms, values


def stand_in(one: Streamed, memory: torch.Tensor) -> torch.Tensor:
    """Return memory as it is registered in the place of a tensor, with a count of writes of its own."""
    return as_parameter(memory.data) if isinstance(one.tensor, torch.nn.Parameter) else memory.data

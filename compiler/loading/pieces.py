"""Stacks that a checkpoint stores in pieces: each piece has its place, and is read straight into it.

Mixtures are published with one tensor per expert, and computed with one stack of them all. A stack in
memory is filled piece by piece. A stack on disk stays in pieces, of which a call needs only some rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch

from ..sources.safetensors_header import StoredTensor
from .asked import is_plain_float
from .conversions import Merge
from .matching import stored_dtype
from .seats import Slot
from .stored_files import Mapped


class StackPlace(NamedTuple):
    """Where a stored tensor belongs in a stack: consecutive elements of one row."""

    source: StoredTensor
    row: int
    first: int
    """Its first element within the row."""


def places_in(merge: Merge, slot: Slot) -> tuple[StackPlace, ...] | None:
    """Return where the stored tensors that make a slot's tensor belong in it; None where none is placed."""
    places = stack_places(merge, slot.tensor.shape)
    stored = {stored_dtype(place.source) for place in places or ()}
    return places if is_plain_float(slot.dtype) and len(stored) == 1 and None not in stored else None


def stack_places(merge: Merge, shape: Sequence[int]) -> tuple[StackPlace, ...] | None:
    """Return the places of the stored tensors in a stack; None where merging does more than placing.

    That is so for rules that only stack (along the first dimension) and join (along the next).
    """
    kinds, stack = merge.kinds(), merge.stacked()
    if kinds is None or stack is None or stack[0] != tuple(shape):
        return None
    places: list[StackPlace] = []
    first = 0
    for pieces in kinds:
        places += [StackPlace(piece, row, first) for row, piece in enumerate(pieces)]
        first += torch.Size(pieces[0].shape).numel()
    return tuple(places)


Part: TypeAlias = tuple[Mapped, int]
"""A stored tensor in its file, and its first element within a row."""
Pair: TypeAlias = tuple[torch.Tensor, torch.Tensor]
"""What is copied, in memory by then, and the memory it is copied to."""


@dataclass(frozen=True, slots=True)
class FiledRows:
    """A stack whose rows are in files, each in one part or several."""

    shape: torch.Size
    dtype: torch.dtype
    rows: tuple[tuple[Part, ...], ...]

    def brought(self, rows: Iterable[tuple[int, torch.Tensor]]) -> Iterator[Pair]:
        """Yield the parts of rows with their places in memory of a row's shape that is given with each."""
        for row, target in rows:
            parts, flat = self.rows[row], target.view(-1)
            for mapped, first in parts:
                whole = len(parts) == 1
                yield from mapped.stretches(flat if whole else flat[first : first + mapped.tensor.numel()])

    def pairs(self, room: torch.Tensor) -> Iterator[Pair]:
        """Yield the parts of all rows with their places in memory of the stack's shape."""
        return self.brought(enumerate(room))

    def made(self) -> torch.Tensor:
        """Return all rows in memory."""
        result = torch.empty(self.shape, dtype=self.dtype)
        for part, room in self.pairs(result):
            room.copy_(part)
        return result

    def files(self, rows: Iterable[int] | None = None) -> list[Mapped]:
        """Return what some rows are read from, or all."""
        chosen = self.rows if rows is None else (self.rows[row] for row in rows)
        return [mapped for row in chosen for mapped, _ in row]

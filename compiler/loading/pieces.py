"""Stacks that a checkpoint stores in pieces: each piece has its place, and is read straight into it.

Mixtures are published with one tensor per expert, and computed with one stack of them all. A stack in
memory is filled piece by piece. A stack on disk stays in pieces, of which a call needs only some rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from ..sources.safetensors_header import StoredTensor
from .asked import is_plain_float
from .conversions import Merge
from .matching import stored_dtype
from .seats import Slot
from .stored_files import Mapped

_JOINED = 2
"""Dimensions that a stack of joined pieces has at least."""


@dataclass(frozen=True, slots=True)
class StackPlace:
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
    kinds = merge.kinds()
    if kinds is None or len(shape) < _JOINED:
        return None
    places: list[StackPlace] = []
    first = 0
    for pieces in kinds:
        sizes = {piece.shape[1:] for piece in pieces} | {tuple(shape[2:])}
        if len(pieces) != shape[0] or len(sizes) != 1 or len({piece.shape for piece in pieces}) != 1:
            return None
        places += [StackPlace(piece, row, first) for row, piece in enumerate(pieces)]
        first += torch.Size(pieces[0].shape).numel()
    return tuple(places) if first == torch.Size(shape[1:]).numel() else None


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

    def brought(self, row: int, target: torch.Tensor) -> Iterator[Pair]:
        """Yield the parts of one row with their places in memory of the row's shape."""
        flat = target.view(-1)
        for mapped, first in self.rows[row]:
            part = mapped.tensor.view(-1)
            mapped.bring_all(0, part.nbytes)
            yield part, flat[first : first + part.numel()]

    def pairs(self, room: torch.Tensor) -> Iterator[Pair]:
        """Yield the parts of all rows with their places in memory of the stack's shape."""
        for row in range(self.shape[0]):
            yield from self.brought(row, room[row])

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

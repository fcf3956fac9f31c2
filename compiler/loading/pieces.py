"""Stacks that a checkpoint stores in pieces: each piece has its place, and is read straight into it.

Mixtures are published with one tensor per expert, and computed with one stack of them all. A stack in
memory is filled piece by piece. A stack on disk stays in pieces, of which a call needs only some rows;
in between it is a tensor that is put together whenever somebody asks for its values.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch.utils._pytree import tree_leaves, tree_map_only

from ..sources.safetensors_header import StoredTensor
from .asked import is_plain_float
from .conversions import Merge
from .matching import stored_dtype
from .pages import Span
from .remade import Remade
from .seats import Slot
from .stored_files import Mapped

_Untyped: TypeAlias = Any
"""What operations of torch take and return."""
_JOINED = 2
"""Operations of a rule that stacks several kinds of pieces: one stacks each kind, one joins them."""


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
    kinds = _kinds(merge)
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


def _kinds(merge: Merge) -> list[list[StoredTensor]] | None:
    """Return the pieces of a rule by kind, in the order they are joined."""
    steps = [(type(step).__name__, getattr(step, "dim", None)) for step in merge.converter.operations]
    patterns: list[str] = list(merge.converter.source_patterns)
    stacked = steps[:1] == [("MergeModulelist", 0)] and len(patterns) == 1 and len(steps) == 1
    joined = steps == [("MergeModulelist", 0), ("Concatenate", 1)]
    if not (stacked or joined) or len(merge.converter.target_patterns) != 1:
        return None
    found = [[source for pattern, source in merge.sources if pattern == kind] for kind in patterns]
    return [kind for kind in found if kind]


Part: TypeAlias = tuple[Mapped, int]
"""A stored tensor in its file, and its first element within a row."""


@dataclass(slots=True, eq=False)
class Pieces:
    """A stack whose rows are in files; in memory from when somebody writes to it."""

    shape: torch.Size
    dtype: torch.dtype
    """What is stored."""
    rows: tuple[tuple[Part, ...], ...]
    written: torch.Tensor | None = None
    """What somebody made of it: files are never written, and not needed after."""
    writes: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the whole stack."""
        return self.shape.numel() * self.dtype.itemsize

    def brought(self, row: int, target: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the parts of one row, in memory by then, with their places in memory of the row's shape."""
        if self.written is not None:
            yield self.written[row], target
            return
        flat = target.view(-1)
        for mapped, first in self.rows[row]:
            part = mapped.tensor.view(-1)
            mapped.bring_all(0, part.nbytes)
            yield part, flat[first : first + part.numel()]

    def pairs(self, room: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the parts of all rows, with their places in memory of the stack's shape."""
        for row in range(self.shape[0]):
            yield from self.brought(row, room[row])

    def fill(self, row: int, target: torch.Tensor) -> None:
        """Write one row to memory of its shape, in any dtype."""
        for part, room in self.brought(row, target):
            room.copy_(part)

    def whole(self) -> torch.Tensor:
        """Return all rows."""
        result = torch.empty(self.shape, dtype=self.dtype)
        for row in range(self.shape[0]):
            self.fill(row, result[row])
        return result

    def write(self, values: torch.Tensor) -> None:
        """Let values in memory be the stack's from now on."""
        self.written, self.rows = values, ()
        self.writes += 1

    def spans(self, rows: Iterable[int] | None = None) -> list[Span]:
        """Return where some rows are in the pages of files, or all."""
        chosen = self.rows if rows is None or not self.rows else (self.rows[row] for row in rows)
        return [mapped.span for row in chosen for mapped, _ in row]

    def check(self) -> None:
        """Raise `PlanError` if one of the files is not what it was."""
        for mapped in {id(mapped.file): mapped for row in self.rows for mapped, _ in row}.values():
            mapped.check()


class Stacked(torch.Tensor):
    """A tensor on the host whose values are read from its pieces by whatever computes with it."""

    pieces: Pieces | Remade

    @staticmethod
    def __new__(cls: type[Stacked], pieces: Pieces | Remade) -> Stacked:  # noqa: PYI034  # no class is made of it
        """Return a tensor that holds no memory."""
        make: Any = torch.Tensor._make_wrapper_subclass  # noqa: SLF001
        made: Stacked = make(cls, pieces.shape, dtype=pieces.dtype, device="cpu")
        made.pieces = pieces
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: _Untyped, _types: object, args: tuple[_Untyped, ...] = (), kwargs: _Untyped = None
    ) -> _Untyped:
        """Compute with the values; what only looks at the tensor keeps its pieces, what writes to it none.

        A view is a view of a copy: nothing tells of what is written to it later.
        """
        if func is torch.ops.aten.detach.default or func is torch.ops.aten.alias.default:
            return Stacked(args[0].pieces)
        outside = kwargs or {}
        inside, named = tree_map_only(Stacked, lambda tensor: tensor.pieces.whole(), (args, outside))
        result = func(*inside, **named)
        arguments = getattr(getattr(func, "_schema", None), "arguments", ())  # what takes functions has none
        names = [argument.name for argument in arguments]
        given = dict(zip(names, args, strict=False)) | outside
        values = dict(zip(names, inside, strict=False)) | named
        writes = [each.name for each in arguments if each.alias_info is not None and each.alias_info.is_write]
        for name in writes:
            for tensor, value in zip(
                tree_leaves(given.get(name)), tree_leaves(values.get(name)), strict=True
            ):
                if isinstance(tensor, Stacked):
                    tensor.pieces.write(value)
                    result = tensor if result is value else result
        return result

    def __setitem__(self, place: _Untyped, value: _Untyped) -> None:
        """Write to some of it, which for torch is a write to a view."""
        whole = self.pieces.whole()
        with torch.no_grad():
            whole[place] = value
        self.pieces.write(whole)

    def __deepcopy__(self, memo: dict[int, _Untyped]) -> torch.Tensor:
        """Return the values in memory: a copy does not depend on the files."""
        copied = memo.get(id(self))
        if copied is None:
            copied = self.pieces.whole()
            if hasattr(self, "_is_param"):
                copied = torch.nn.Parameter(copied, requires_grad=self.requires_grad)
            memo[id(self)] = copied
        return copied

    def __repr__(self, *, tensor_contents: _Untyped = None) -> str:  # type: ignore[override]
        """Say what it is without reading it."""
        del tensor_contents
        return f"Stacked({list(self.shape)}, dtype={self.dtype}, on disk in pieces)"


def put_together(_module: object, state: dict[str, _Untyped], prefix: str, _metadata: object) -> None:
    """Give a module's state values that can be saved: what is in pieces is read into memory."""
    for name, value in state.items():
        if name.startswith(prefix) and isinstance(value, Stacked) and not hasattr(value, "_is_param"):
            state[name] = value.pieces.whole()

"""Tensors that are put together from what is in files whenever somebody computes with them.

A view of one is where it lies in it, and read as late. What is written to either is in memory from then on,
so that a merged adapter, an optimizer or a hand on one expert counts as it does in a plain tensor.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any, NoReturn, SupportsIndex, TypeAlias

import torch
from torch.utils._pytree import tree_leaves, tree_map_only

from ...ir import Diagnostic, PlanError
from ...ir.rules.loading import NOT_IN_MEMORY
from ..machine.pages import Span
from .pieces import FiledRows, Pair
from .remade import Remade
from .stored_files import Mapped

_Untyped: TypeAlias = Any
"""What operations of torch take and return."""


class Pieces:
    """A tensor in files; in memory from when somebody writes to it: files are never written."""

    def __init__(self, source: FiledRows | Remade) -> None:
        self.shape, self.dtype = source.shape, source.dtype
        self.written: torch.Tensor | None = None
        self.writes = 0
        self._source: FiledRows | Remade | None = source

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return self.shape.numel() * self.dtype.itemsize

    def brought(self, rows: Iterable[tuple[int, torch.Tensor]]) -> Iterator[Pair]:
        """Yield what rows are made of, with its places in memory of a row's shape that is given with each."""
        if self._source is not None:
            yield from self._source.brought(rows)
        else:
            yield from ((self.memory()[row], target) for row, target in rows)

    def pairs(self, room: torch.Tensor) -> Iterator[Pair]:
        """Yield what all of it is made of, with its places in memory of its shape."""
        yield from [(self.memory(), room)] if self._source is None else self._source.pairs(room)

    def memory(self) -> torch.Tensor:
        """Return all values, which who asks does not change unless it gives them to `write`."""
        if self.written is not None:
            return self.written
        assert self._source is not None  # noqa: S101  # what was not written to is in files
        return self._source.made()

    def whole(self) -> torch.Tensor:
        """Return all values in memory of their own."""
        return self.memory() if self.written is None else self.written.clone()

    def write(self, values: torch.Tensor) -> None:
        """Let values in memory be the tensor's from now on."""
        self.written, self._source = values.contiguous(), None
        self.writes += 1

    def files(self, rows: Iterable[int] | None = None) -> list[Mapped]:
        """Return what some rows are read from, or all; nothing once somebody has written to it."""
        return [] if self._source is None else self._source.files(rows)

    def spans(self, rows: Iterable[int] | None = None) -> list[Span]:
        """Return where some rows are in the pages of files, or all."""
        return [mapped.span for mapped in self.files(rows)]

    def check(self) -> None:
        """Raise `PlanError` if one of the files is not what it was."""
        for mapped in () if self._source is None else self._distinct:
            mapped.check()

    @cached_property
    def _distinct(self) -> list[Mapped]:
        """One of what it is made of in each file."""
        return list({id(mapped.file): mapped for mapped in self.files()}.values())


class Stacked(torch.Tensor):
    """A tensor on the host whose values are in its pieces, or a view of such a tensor."""

    pieces: Pieces

    @staticmethod
    def __new__(cls: type[Stacked], pieces: Pieces, like: torch.Tensor | None = None) -> Stacked:  # noqa: PYI034
        """Return a tensor that holds no memory; ``like`` says where a view lies in that of the whole."""
        like = _hollow(pieces) if like is None else like
        make: Any = torch.Tensor._make_wrapper_subclass  # noqa: SLF001
        place = {"strides": like.stride(), "storage_offset": like.storage_offset()}
        made: Stacked = make(cls, like.shape, **place, dtype=like.dtype, device="cpu")
        made.pieces = pieces
        return made

    @property
    def is_whole(self) -> bool:
        """Whether it is all of its pieces, in their order."""
        return (self.shape, self.dtype) == (self.pieces.shape, self.pieces.dtype) and self.is_contiguous()

    def copied(self) -> torch.Tensor:
        """Return its values in memory of their own."""
        return self._within(self.pieces.whole())

    def _within(self, whole: torch.Tensor) -> torch.Tensor:
        """Return what it is of the memory of the whole."""
        flat = whole.view(-1).view(self.dtype)
        start = flat.storage_offset() + self.storage_offset()  # what a rule has cut is a part of more
        return flat.as_strided(self.shape, self.stride(), start)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: _Untyped, _types: object, args: tuple[_Untyped, ...] = (), kwargs: _Untyped = None
    ) -> _Untyped:
        """Compute with the values; a view has the same pieces, what is written to is theirs from then on."""
        outside = kwargs or {}
        if getattr(func, "is_view", False) and isinstance(args[0], Stacked):
            return _viewed(func, args[0], args[1:], outside)
        if func is torch.ops.aten.set_.source_Tensor and isinstance(args[0], Stacked):
            args[0].data = args[1]
            return args[0]
        memory: dict[Pieces, torch.Tensor] = {}  # one for all that lies in it: two views may overlap
        back: dict[int, Stacked] = {}

        def value_of(tensor: Stacked) -> torch.Tensor:
            if tensor.pieces not in memory:
                memory[tensor.pieces] = tensor.pieces.memory()
            value = tensor._within(memory[tensor.pieces])
            back[id(value)] = tensor
            return value

        written = _written(func, args, outside)
        inside, named = tree_map_only(Stacked, value_of, (args, outside))
        result = func(*inside, **named)
        for pieces in dict.fromkeys(tensor.pieces for tensor in written):
            pieces.write(memory[pieces])
        return tree_map_only(torch.Tensor, lambda value: back.get(id(value), value), result)

    @property
    def data(self) -> torch.Tensor:
        """What torch gives: a view that no gradient follows."""
        found: torch.Tensor = torch.Tensor.data.__get__(self)  # type: ignore[attr-defined]
        return found

    @data.setter
    def data(self, value: torch.Tensor) -> None:
        if not self.is_whole or (value.shape, value.dtype) != (self.shape, self.dtype):
            _refuse("data")
        if isinstance(value, Stacked) and value.is_whole:
            self.pieces = value.pieces
        else:
            self.pieces.write(value.detach().to("cpu"))

    def numpy(self, *, force: bool = False) -> _Untyped:
        """Return the values as an array that refuses to be written to: nothing would tell of it."""
        array = self.copied().numpy(force=force)
        array.flags.writeable = False
        return array

    def tolist(self) -> list[_Untyped]:
        """Return the values as numbers of Python."""
        values: list[_Untyped] = self.copied().tolist()
        return values

    def share_memory_(self) -> NoReturn:
        """Refuse what would read memory that is not there."""
        _refuse("share_memory_")

    def __dlpack__(self, **_wanted: object) -> NoReturn:
        """Refuse what would read memory that is not there."""
        _refuse("__dlpack__")

    def __deepcopy__(self, memo: dict[int, _Untyped]) -> torch.Tensor:
        """Return the values in memory: a copy does not depend on the files."""
        copied = memo.get(id(self))
        if copied is None:
            copied = self.copied()
            if hasattr(self, "_is_param"):
                copied = torch.nn.Parameter(copied, requires_grad=self.requires_grad)
            memo[id(self)] = copied
        return copied

    def __reduce_ex__(self, protocol: SupportsIndex) -> _Untyped:
        """Pickle the values."""
        return copy.deepcopy(self).__reduce_ex__(protocol)

    def __repr__(self, *, tensor_contents: _Untyped = None) -> str:  # type: ignore[override]
        """Say what it is without reading it; a view shows its values."""
        del tensor_contents
        if self.is_whole:
            return f"Stacked({list(self.shape)}, dtype={self.dtype}, on disk in pieces)"
        return repr(self.copied())

    def __format__(self, spec: str) -> str:
        """Format one number as such."""
        return format(self.copied(), spec) if spec else repr(self)


def _hollow(pieces: Pieces) -> torch.Tensor:
    return torch.empty(pieces.shape, dtype=pieces.dtype, device="meta")


def _viewed(
    func: _Untyped, base: Stacked, args: tuple[_Untyped, ...], kwargs: dict[str, _Untyped]
) -> _Untyped:
    """Return views of a tensor: where they lie is found out on the meta device.

    Like any view, they are inference tensors if it is one, whatever the mode.
    """
    views = func(base._within(_hollow(base.pieces)), *args, **kwargs)  # noqa: SLF001
    with torch.inference_mode(base.is_inference()):
        return tree_map_only(torch.Tensor, lambda view: Stacked(base.pieces, view), views)


def _written(func: _Untyped, args: tuple[_Untyped, ...], kwargs: dict[str, _Untyped]) -> list[Stacked]:
    """Return what an operation writes to of tensors in files; one that changes where they lie is refused."""
    arguments = getattr(getattr(func, "_schema", None), "arguments", ())  # what takes functions has none
    given = dict(zip((argument.name for argument in arguments), args, strict=False)) | kwargs
    writes = [each.name for each in arguments if each.alias_info is not None and each.alias_info.is_write]
    leaves = [leaf for name in writes for leaf in tree_leaves(given.get(name)) if isinstance(leaf, Stacked)]
    if leaves and torch.Tag.inplace_view in func.tags and func is not torch.ops.aten.detach_.default:
        _refuse(func.overloadpacket.__name__)
    return leaves


def _refuse(what: str) -> NoReturn:
    message = f"`{what}` works on a tensor's memory, and one that lies in files has none"
    help_ = "write values of its shape and dtype to it (`copy_`), or work on a copy (`clone()`)"
    raise PlanError([Diagnostic(NOT_IN_MEMORY, message, help=help_)])


def put_together(_module: object, state: dict[str, _Untyped], prefix: str, _metadata: object) -> None:
    """Give a module's state values that can be saved: what is in pieces is read into memory."""
    for name, value in state.items():
        if name.startswith(prefix) and isinstance(value, Stacked) and not hasattr(value, "_is_param"):
            state[name] = value.copied()

"""One tensor that is stored in one place and used in another, and what a forward makes of it.

A forward may write to it or register something else in its place. Both are noticed without reading a
byte, and taken to where the tensor rests; the checkpoint's files are never written.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from ...machine.pages import Span
from ..blocks import Block
from ..compounds import Compound, taken_apart
from ..stacked import Pieces, Stacked
from ..stored_files import Mapped
from .row_views import RowViews
from .write_marks import Stretches, mark_of_writes, place_of, version_of

Home: TypeAlias = tuple[dict[str, Any], str]
"""A table of a module, and a name in it."""
Stamp: TypeAlias = tuple[int, int, int]


@dataclass(slots=True, eq=False)
class Streamed:
    """One tensor object of the model: what it is at rest, and what it must be to compute."""

    tensor: torch.Tensor
    rest: torch.Tensor
    device: torch.device
    dtype: torch.dtype
    mapped: Mapped | None
    homes: Sequence[Home] = ()
    """Where it is registered."""
    block: Block | None = None
    """The host memory it rests in, if that is shared with what is brought together with it."""
    start: int = 0
    """Its first byte there."""
    users: int = 0
    writes: int = 0
    """How often what is at rest was written to from what was in use."""
    used: torch.Tensor | None = None
    """What is registered while it is in use, if that is not what is at rest."""
    compound: Compound | None = None
    """What it is made of, if it is of a class of its own."""
    parts: Sequence[Streamed] = ()
    """The plain tensors of it: what really rests and travels."""
    _state: tuple[object, ...] = ()
    _lent: Sequence[Home] = ()
    _looked: Stretches | None = None
    _rows: RowViews | None = None

    def lend(self, value: torch.Tensor | None) -> None:
        """Let the model compute with a value, or with what is at rest.

        The registered object stays itself where torch can do that. A place that somebody gave another
        tensor, as `torch.func.functional_call` does, keeps that one.
        """
        self._lent = [home for home in self.homes if home[0].get(home[1]) is self.tensor]
        if value is None:
            self._state = self._now()
            return
        if self.pieces is None and not self.parts and _takes(self.tensor, value):
            self.tensor.data = value
            value = self.tensor
        elif isinstance(self.tensor, torch.nn.Parameter):  # parametrizations put back what is one as one
            value = as_parameter(value)
        self.used = value
        self._state = self._now()
        for table, name in self._lent:
            table[name] = value

    def give_up(self, homes: Sequence[Home]) -> None:
        """Let some of its places have something else for a while: what is found there is not its own."""
        if self._lent:  # by a module tied to this one
            gone = {(id(table), name) for table, name in homes}
            self._lent = [(table, name) for table, name in self._lent if (id(table), name) not in gone]

    def take_back(self, homes: Sequence[Home]) -> None:
        """Be in places again that it gave up, as in the others."""
        for table, name in homes:
            table[name] = self.tensor if self.used is None else self.used
        if self.used is not None:
            self._lent = [*self._lent, *homes]

    def follow(self) -> bool:
        """Let what took the tensor's place or its memory while it rested be what rests; says if any did."""
        if self.used is not None or self.users or self.parts or (given := self._given()) is None:
            return False
        self.dtype = self.dtype if given.dtype == self.rest.dtype else given.dtype
        self.tensor, self.rest, self.mapped, self.block = given, given.data, None, None
        self.writes += 1
        return True

    def _given(self) -> torch.Tensor | None:
        """Return what is registered instead, on the host; the tensor itself if it has other memory."""
        if all(table.get(name) is self.tensor for table, name in self.homes):
            stays = isinstance(self.rest, Stacked) or place_of(self.tensor) == place_of(self.rest)
            return None if stays else self.tensor
        other, *more = {id(found := table.get(name)): found for table, name in self.homes}.values()
        if more or not isinstance(other, torch.Tensor) or isinstance(other, Stacked) or taken_apart(other):
            return None
        comes = other.device == self.rest.device  # a value in the dtype of use is used as it is
        return other if comes and (self.device != other.device or other.dtype == self.rest.dtype) else None

    def written(self) -> list[int]:
        """Name the tables it is in, if the forward wrote to what it was given, or gave it other memory."""
        return [] if self._now() == self._state else [id(table) for table, _ in self._lent]

    def _now(self) -> tuple[object, ...]:
        """Return what tells of a write to what is in use, and of other memory given to it."""
        return (version_of(self.tensor),) if self.used is None else mark_of_writes(self.used)

    def replaced(self) -> list[Streamed]:
        """Return what the forward registered in its place, at rest; those places are no longer its own."""
        left = [(home, home[0].get(home[1])) for home in self._lent]
        left = [(home, found) for home, found in left if found is not self.used]
        if not left:
            return []
        self.homes = [home for home in self.homes if all(home is not gone for gone, _ in left)]
        others = {id(found): found for _, found in left if found is not None}
        return [
            self._after(other, [home for home, found in left if found is other]) for other in others.values()
        ]

    def _after(self, found: torch.Tensor, homes: Sequence[Home]) -> Streamed:
        """Put what a forward registered to rest."""
        rest = found.detach().to(self.rest.device, copy=True)
        parameter = isinstance(found, torch.nn.Parameter)
        at_rest = torch.nn.Parameter(rest, requires_grad=False) if parameter else rest.data
        for table, name in homes:
            table[name] = at_rest
        return Streamed(at_rest, rest, found.device, found.dtype, None, homes)

    def settle(self, written: Collection[int]) -> None:
        """Put the tensor back as it is at rest, with what a forward wrote if it is in one of the tables."""
        lent, self._lent = self._lent, ()  # what is not lent when its module is put back was not written to
        if self.used is None:
            return
        if any(id(table) in written for table, _ in lent):
            self._keep(self.used.data)
        if self.used is self.tensor:
            self.tensor.data = self.rest
        for table, name in lent:
            if table.get(name) is self.used:
                table[name] = self.tensor
        self.used = None

    def _keep(self, value: torch.Tensor) -> None:
        """Let a value be what rests, in the memory of what rested before where it fits without a loss."""
        if self.pieces is not None and value.dtype == self.pieces.dtype and value.shape == self.pieces.shape:
            self.pieces.write(value.to(self.rest.device, copy=True))
        elif self.pieces is not None:  # their tensor has no memory to take a value
            self.rest = value.to(self.rest.device, copy=True)
            self.tensor = (
                torch.nn.Parameter(self.rest, requires_grad=self.tensor.requires_grad)
                if isinstance(self.tensor, torch.nn.Parameter)
                else self.rest
            )
        elif self.compound is not None:
            for part, leaf in zip(self.parts, leaves_of(value), strict=True):
                part.rest.copy_(leaf)
        elif (value.dtype, value.shape) == (self.rest.dtype, self.rest.shape):
            self.rest.copy_(value)  # the pages of a file are private to the process
        else:
            self.rest, self.mapped, self.block = value.to(self.rest.device, copy=True), None, None
            if self.used is not self.tensor:
                self.tensor.data = self.rest
        self.writes += 1

    @property
    def stamp(self) -> Stamp:
        """What changes with what is at rest, whoever writes to it."""
        of_pieces = -1 if self.pieces is None else self.pieces.writes
        return self.writes, of_pieces, sum(version_of(leaf.tensor) for leaf in self.leaves)

    def look(self) -> bytes:
        """Return some of the bytes at rest: what adapters add through ``.data`` changes no stamp.

        That tells of a write to the whole tensor; one to a part of it may lie between what is looked at.
        Of pieces nothing: they count what is written to them.
        """
        return b"".join(leaf.stretches() for leaf in self.leaves if not isinstance(leaf.rest, Stacked))

    def stretches(self) -> bytes:
        """Return eight stretches of what is at rest, from its first byte to its last; none off the host."""
        if self.rest.device.type != "cpu" or not self.rest.is_contiguous() or not self.rest.nbytes:
            return b""
        if self._looked is None or not self._looked.is_of(self.rest):
            self._looked = Stretches(self.rest)
        if self.mapped is not None:  # a file that has lost them is said to have, and not touched
            for first in self._looked.firsts:
                self.mapped.bring(first, self._looked.nbytes)
        return self._looked.read()

    @property
    def leaves(self) -> Sequence[Streamed]:
        """The plain tensors that are copied for it: itself, unless it is made of others."""
        return self.parts or (self,)

    def put_together(self, values: Mapping[int, torch.Tensor | None]) -> torch.Tensor:
        """Return what it is where its parts have been brought; they are given by their ids."""
        assert self.compound is not None  # noqa: S101  # nothing else has parts
        brought = [values[id(part)] for part in self.parts]
        return self.compound.made_of([value for value in brought if value is not None])

    @property
    def moves(self) -> bool:
        """Whether a copy is needed: another device, another dtype, or bytes at an odd address."""
        if self.parts:
            return any(part.moves for part in self.parts)
        if (self.rest.device, self.rest.dtype) != (self.device, self.dtype) or isinstance(self.rest, Stacked):
            return True
        return self.rest.numel() > 0 and self.rest.data_ptr() % self.rest.element_size() != 0

    @property
    def nbytes(self) -> int:
        """Bytes while in use."""
        if self.parts:
            return sum(part.nbytes for part in self.parts)
        return self.rest.numel() * self.dtype.itemsize

    @property
    def pieces(self) -> Pieces | None:
        """What it is put together from, if it rests in pieces."""
        return self.rest.pieces if isinstance(self.rest, Stacked) and self.rest.is_whole else None

    @property
    def rows(self) -> RowViews:
        """The rows of what is at rest."""
        if self._rows is None or self._rows.stack is not self.rest:
            self._rows = RowViews(self.rest)
        return self._rows

    @property
    def in_files(self) -> bool:
        """Whether its bytes are in files, in memory only when they are brought."""
        return self.mapped is not None or self.pieces is not None

    def check(self) -> None:
        """Raise `PlanError` if a file it is served from is not what it was."""
        if self.mapped is not None:
            self.mapped.check()
        elif self.pieces is not None:
            self.pieces.check()

    @property
    def spans(self) -> list[Span]:
        """Where its bytes are in the pages of files."""
        if self.mapped is not None:
            return [self.mapped.span]
        return [] if self.pieces is None else self.pieces.spans()

    def bring(self) -> None:
        """Return when the bytes at rest are in memory; those in pieces come when they are read."""
        if self.mapped is not None:
            self.mapped.bring_all(0, self.rest.nbytes)

    def copy(self) -> torch.Tensor | None:
        """Return what the module computes with; None when the tensor at rest will do, its bytes in memory."""
        self.bring()
        return self.rest.to(self.device, self.dtype, copy=True) if self.moves else None


def at_rest(
    tensor: torch.Tensor,
    device: torch.device,
    dtype: torch.dtype,
    mapped: Mapped | None,
    homes: Sequence[Home],
) -> Streamed:
    """Return a tensor that rests where it is and is used on a device; what is made of others, by those."""
    compound = taken_apart(tensor)
    one = Streamed(tensor, tensor.data, device, dtype, mapped, homes, compound=compound)
    if compound is not None:
        one.parts = [Streamed(leaf, leaf, device, leaf.dtype, None) for leaf in compound.leaves]
    return one


def leaves_of(tensor: torch.Tensor) -> Sequence[torch.Tensor]:
    """Return the plain tensors that a tensor is made of."""
    compound = taken_apart(tensor)
    return (tensor,) if compound is None else compound.leaves


def as_parameter(value: torch.Tensor) -> torch.Tensor:
    """Return a value as it is registered in the place of a parameter."""
    if type(value) is torch.Tensor:
        return torch.nn.Parameter(value, requires_grad=False)
    value._is_param = True  # noqa: SLF001  # what torch does, but for asking of gradients
    return value


def _takes(tensor: torch.Tensor, value: torch.Tensor) -> bool:
    """Say whether torch can put a value into an existing tensor: not across every two kinds of device."""
    return bool(torch._has_compatible_shallow_copy_type(tensor, value))  # noqa: SLF001  # pyright: ignore[reportPrivateImportUsage]

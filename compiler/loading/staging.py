"""The new tensors of a model, complete before any of them is put into it.

A seat on a device gets a reading job, and memory there while others are read; a seat on disk gets a view
of the file. Until `installed` the model is as it was, so whatever fails before leaves it untouched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import nn

from ...ir import DISK, device_type
from ..sources.safetensors_header import StoredTensor
from .blocks import Block, room_for
from .jobs import Job, Later
from .matching import Match, stored_dtype
from .pieces import FiledRows, Part, StackPlace, places_in
from .remade import remade
from .seats import Seat, Slot
from .stacked import Pieces, Stacked
from .stored_files import Mapped, OpenFiles
from .streaming import Streamed

Berth: TypeAlias = tuple[Block, int]
"""A block, and the first byte of a tensor in it."""


@dataclass(slots=True)
class Staged:
    """What every slot will hold, by its first path."""

    tensors: dict[str, torch.Tensor] = field(default_factory=dict[str, torch.Tensor])
    mapped: dict[str, Mapped] = field(default_factory=dict[str, Mapped])
    jobs: list[Job] = field(default_factory=list[Job])
    copies: list[tuple[torch.Tensor, torch.Tensor]] = field(
        default_factory=list[tuple[torch.Tensor, torch.Tensor]]
    )
    """Targets that are no contiguous memory, with what was read for them."""
    fills: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = field(
        default_factory=dict[str, "list[tuple[torch.Tensor, torch.Tensor]]"]
    )
    """Memory that values of the model itself are copied to when they are put in: one at a time."""
    blocks: dict[str, tuple[Berth, ...]] = field(default_factory=dict[str, "tuple[Berth, ...]"])
    """Where the plain tensors of a slot lie in the host memory that a streamed unit shares."""
    placed: set[str] = field(default_factory=set[str])
    """Targets of merges that are read straight into their place, or stay in pieces."""
    later: dict[str, Later] = field(default_factory=dict[str, Later])
    """Tensors on devices whose memory is asked for while the first are read: a driver takes its time."""

    def tensor(self, path: str) -> torch.Tensor:
        """Return a tensor; what was to come later comes now."""
        if path in self.later:
            self.tensors[path] = self.later.pop(path).tensor()
        return self.tensors[path]


@dataclass(frozen=True, slots=True)
class Stage:
    """What staging needs to know."""

    match: Match
    made: Mapping[str, torch.Tensor]
    """Values that are in no checkpoint, by first path."""
    devices: Mapping[str, torch.device]
    files: OpenFiles | None
    model: nn.Module
    """The model without wrappers, which some conversions ask."""
    map_memory: bool
    """Whether tensors in the host's memory stay in the file's pages instead of being copied."""
    kept: Mapping[int, Streamed]
    """What is served from files now, by the ids of the model's tensors: it can stay so."""
    _blocks: dict[int, Block] = field(default_factory=dict[int, Block])
    """By unit: what a unit on the host is brought from by one copy."""

    def seats(self, seats: Sequence[Seat]) -> Staged:
        """Give every slot its memory; what must be read becomes a job."""
        staged = Staged()
        self._blocks.clear()
        for unit, sizes in self._streamed_from_memory(seats).items():
            self._blocks[unit] = Block(room_for(sizes))
        for seat in seats:
            if self.devices[seat.store].type == "meta":  # another host's
                staged.tensors |= {slot.paths[0]: _hollow(slot) for slot in seat.slots}
                continue
            if len(seat.slots) > 1 and len({slot.dtype for slot in seat.slots}) == 1:
                self._views(seat, staged)
                continue
            for slot in seat.slots:
                self._slot(seat, slot, staged)
        return staged

    def _streamed_from_memory(self, seats: Sequence[Seat]) -> dict[int, list[int]]:
        """Return the bytes of the tensors that rest in the host's memory, by unit."""
        sizes: dict[int, list[int]] = {}
        for seat in seats:
            if self._shares_a_block(seat):
                sizes.setdefault(seat.unit, []).extend(size for slot in seat.slots for size in slot.sizes)
        return sizes

    def _shares_a_block(self, seat: Seat) -> bool:
        there = self.devices[seat.run].type not in {"cpu", "meta"} and self.devices[seat.store].type == "cpu"
        return there and device_type(seat.store) != DISK

    def _slot(self, seat: Seat, slot: Slot, staged: Staged) -> None:
        path, source = slot.paths[0], self.match.stored.get(slot.paths[0])
        if path in self.match.merged:
            self._merged(seat, slot, staged)
        elif source is None:
            self._moved(seat, slot, staged)
        elif (mapped := self._in_place(seat, slot, source)) is not None:
            staged.tensors[path], staged.mapped[path] = mapped.tensor, mapped
            if device_type(seat.store) != DISK:  # in memory once loaded, as the plan says
                staged.jobs.append(Job(source, mapped.tensor.dtype, mapped))
        else:
            staged.jobs.append(_job(source, self._landing(seat, slot, staged)))

    def _moved(self, seat: Seat, slot: Slot, staged: Staged) -> None:
        """Stage a value that the model has: what stays on disk stays in its files."""
        path, served = slot.paths[0], self.kept.get(id(slot.tensor))
        if served is not None and device_type(seat.store) == DISK:
            staged.tensors[path] = served.rest
            if served.mapped is not None:
                staged.mapped[path] = served.mapped
            return
        if slot.compound is not None:
            leaves = [self._put(seat, slot, leaf, staged) for leaf in slot.compound.leaves]
            staged.tensors[path] = slot.compound.made_of(leaves)
            return
        value = self._value(slot)
        whole = value.copied() if isinstance(value, Stacked) else value
        staged.tensors[path] = self._put(seat, slot, whole, staged)

    def _put(self, seat: Seat, slot: Slot, value: torch.Tensor, staged: Staged) -> torch.Tensor:
        """Return a value where it is stored; what is streamed gets a place in its unit's block."""
        dtype = slot.dtype if slot.compound is None else value.dtype
        if not self._shares_a_block(seat):
            return value.to(self.devices[seat.store], dtype)
        target = self._berth(seat, slot, value.shape, dtype, staged)
        staged.fills.setdefault(slot.paths[0], []).append((target, value))
        return target

    def _merged(self, seat: Seat, slot: Slot, staged: Staged) -> None:
        """Stage a tensor that is stored in pieces: on disk it stays so, else each is read into its place."""
        path, made = slot.paths[0], self.match.maker(slot)
        places = None if made is None else places_in(made[1], slot)
        if made is not None and device_type(seat.store) == DISK and self.files is not None:
            output, merge = made
            staged.tensors[path] = Stacked(
                Pieces(
                    remade(merge, slot, output, self.files, self.model)
                    if places is None
                    else _rows(places, slot, self.files)
                )
            )
            staged.placed.update(slot.paths)
            return
        target = self._landing(seat, slot, staged)
        if places is not None:
            row = slot.tensor.shape[1:].numel()
            staged.jobs += [_job(each.source, target, each.row * row + each.first) for each in places]
            staged.placed.update(slot.paths)

    def _value(self, slot: Slot) -> torch.Tensor:
        value = self.made.get(slot.paths[0], slot.tensor.detach())
        return value if value.dtype == slot.dtype else value.to(slot.dtype)

    def _in_place(self, seat: Seat, slot: Slot, source: StoredTensor) -> Mapped | None:
        """Return a view of the file for a seat that stays there."""
        dtype = stored_dtype(source)
        on_disk = device_type(seat.store) == DISK
        whole = dtype == slot.dtype and not _misaligned(source, slot.dtype)
        stays = {self.devices[seat.store].type, self.devices[seat.run].type} == {"cpu"}
        if self.files is None or dtype is None or not (on_disk or (self.map_memory and stays and whole)):
            return None
        return self.files.mapped(source, dtype)

    def _landing(self, seat: Seat, slot: Slot, staged: Staged) -> torch.Tensor | Later:
        """Stage memory for what is read."""
        path, device = slot.paths[0], self.devices[seat.store]
        if device.type != "cpu":
            later = staged.later[path] = Later(slot.tensor.shape, slot.dtype, device)
            return later
        shares = self._shares_a_block(seat)
        staged.tensors[path] = (
            self._berth(seat, slot, slot.tensor.shape, slot.dtype, staged)
            if shares
            else torch.empty(slot.tensor.shape, dtype=slot.dtype)
        )
        return staged.tensors[path]

    def _berth(
        self, seat: Seat, slot: Slot, shape: Sequence[int], dtype: torch.dtype, staged: Staged
    ) -> torch.Tensor:
        block = self._blocks[seat.unit]
        target, start = block.tensor(shape, dtype)
        staged.blocks[slot.paths[0]] = (*staged.blocks.get(slot.paths[0], ()), (block, start))
        return target

    def _views(self, seat: Seat, staged: Staged) -> None:
        """Stage several tensors that are views of one storage, so that they are so again."""
        full = next((slot for slot in seat.slots if self._fills(slot, seat)), None)
        if full is not None:
            self._slot(seat, full, staged)
            base, start = staged.tensor(full.paths[0]), int(full.tensor.storage_offset())
        else:
            extent = max(_extent(slot.tensor) for slot in seat.slots)
            kind, device = seat.slots[0].dtype, self.devices[seat.store]
            base, start = torch.zeros(extent, dtype=kind, device=device), 0
        for slot in seat.slots:
            if slot is full:
                continue
            view = _view(base, slot.tensor, start)
            staged.tensors[slot.paths[0]] = view
            source = self.match.stored.get(slot.paths[0])
            if full is None and source is not None:
                landing = view if view.is_contiguous() else torch.empty(view.shape, dtype=view.dtype)
                staged.jobs.append(_job(source, landing))
                if landing is not view:
                    staged.copies.append((view, landing))
            elif full is None:
                staged.copies.append((view, self._value(slot)))

    def _fills(self, slot: Slot, seat: Seat) -> bool:
        """Say whether one slot is the whole storage, so that the others are views of it."""
        whole = slot.nbytes == seat.nbytes and slot.tensor.is_contiguous()
        extent = max(_extent(other.tensor) for other in seat.slots)
        starts = min(other.tensor.storage_offset() for other in seat.slots)
        inside = slot.tensor.storage_offset() == starts and _extent(slot.tensor) == extent
        return whole and inside


def _hollow(slot: Slot) -> torch.Tensor:
    return torch.empty(slot.tensor.shape, dtype=slot.dtype, device="meta")


def _extent(tensor: torch.Tensor) -> int:
    """Return one past the last element of the storage a tensor uses."""
    if not tensor.numel():
        return int(tensor.storage_offset())
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    return int(tensor.storage_offset()) + sum((size - 1) * stride for size, stride in steps) + 1


def _view(base: torch.Tensor, like: torch.Tensor, start: int) -> torch.Tensor:
    return base.as_strided(like.shape, like.stride(), like.storage_offset() - start)


def _job(source: StoredTensor, target: torch.Tensor | Later, start: int = 0) -> Job:
    return Job(source, stored_dtype(source) or target.dtype, target, start)


def _rows(places: Sequence[StackPlace], slot: Slot, files: OpenFiles) -> FiledRows:
    """Return a stack that stays in its files."""
    rows: list[list[Part]] = [[] for _ in range(slot.tensor.shape[0])]
    dtype = stored_dtype(places[0].source) or slot.dtype
    for place in places:
        rows[place.row].append((files.mapped(place.source, dtype), place.first))
    return FiledRows(slot.tensor.shape, dtype, tuple(map(tuple, rows)))


def _misaligned(source: StoredTensor, dtype: torch.dtype) -> bool:
    return source.offset % dtype.itemsize != 0

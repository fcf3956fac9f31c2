"""The new tensors of a model, complete before any of them is put into it.

A seat on a device gets memory there and a reading job; a seat on disk gets a view of the file. Until
`install` the model is as it was, so whatever fails before leaves it untouched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ...ir import DISK, device_type
from ..sources.safetensors_header import StoredTensor
from .matching import Match, stored_dtype
from .reading import Job
from .seats import Seat, Slot
from .stored_files import Mapped, OpenFiles


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


@dataclass(frozen=True, slots=True)
class Stage:
    """What staging needs to know."""

    match: Match
    made: Mapping[str, torch.Tensor]
    """Values that are in no checkpoint, by first path."""
    devices: Mapping[str, torch.device]
    files: OpenFiles | None
    map_memory: bool
    """Whether tensors in the host's memory stay in the file's pages instead of being copied."""

    def seats(self, seats: Sequence[Seat]) -> Staged:
        """Give every slot its memory; what must be read becomes a job."""
        staged = Staged()
        for seat in seats:
            if len(seat.slots) > 1 and len({slot.dtype for slot in seat.slots}) == 1:
                self._views(seat, staged)
                continue
            for slot in seat.slots:
                self._slot(seat, slot, staged)
        return staged

    def _slot(self, seat: Seat, slot: Slot, staged: Staged) -> None:
        path, source = slot.paths[0], self.match.stored.get(slot.paths[0])
        if path in self.match.merged:
            staged.tensors[path] = self._memory(seat, slot.tensor.shape, slot.dtype)
        elif source is None:
            staged.tensors[path] = self._value(slot).to(self.devices[seat.store])
        elif (mapped := self._in_place(seat, slot, source)) is not None:
            staged.tensors[path], staged.mapped[path] = mapped.tensor, mapped
            if device_type(seat.store) != DISK:  # in memory once loaded, as the plan says
                staged.jobs.append(Job(source, mapped.tensor.dtype, mapped))
        else:
            target = self._memory(seat, slot.tensor.shape, slot.dtype)
            staged.tensors[path] = target
            staged.jobs.append(_job(source, target))

    def _value(self, slot: Slot) -> torch.Tensor:
        value = self.made.get(slot.paths[0], slot.tensor.detach())
        return value.to(slot.dtype)

    def _in_place(self, seat: Seat, slot: Slot, source: StoredTensor) -> Mapped | None:
        """Return a view of the file for a seat that stays there."""
        dtype = stored_dtype(source)
        on_disk = device_type(seat.store) == DISK
        whole = dtype == slot.dtype and not _misaligned(source, slot.dtype)
        stays = {self.devices[seat.store].type, self.devices[seat.run].type} == {"cpu"}
        if self.files is None or dtype is None or not (on_disk or (self.map_memory and stays and whole)):
            return None
        return self.files.mapped(source, dtype)

    def _memory(self, seat: Seat, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
        store, run = self.devices[seat.store], self.devices[seat.run]
        if (
            store.type == "cpu" and run.type == "cuda"
        ):  # pinned memory is copied to the card while it computes
            return torch.empty(shape, dtype=dtype, pin_memory=True)
        return torch.empty(shape, dtype=dtype, device=store)

    def _views(self, seat: Seat, staged: Staged) -> None:
        """Stage several tensors that are views of one storage, so that they are so again."""
        full = next((slot for slot in seat.slots if self._fills(slot, seat)), None)
        if full is not None:
            self._slot(seat, full, staged)
            base, start = staged.tensors[full.paths[0]], int(full.tensor.storage_offset())
        else:
            extent = max(_extent(slot.tensor) for slot in seat.slots)
            base, start = self._memory(seat, torch.Size([extent]), seat.slots[0].dtype).zero_(), 0
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


def _extent(tensor: torch.Tensor) -> int:
    """Return one past the last element of the storage a tensor uses."""
    if not tensor.numel():
        return int(tensor.storage_offset())
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    return int(tensor.storage_offset()) + sum((size - 1) * stride for size, stride in steps) + 1


def _view(base: torch.Tensor, like: torch.Tensor, start: int) -> torch.Tensor:
    return base.as_strided(like.shape, like.stride(), like.storage_offset() - start)


def _job(source: StoredTensor, target: torch.Tensor) -> Job:
    return Job(source, stored_dtype(source) or target.dtype, target)


def _misaligned(source: StoredTensor, dtype: torch.dtype) -> bool:
    return source.offset % dtype.itemsize != 0


def installed(model: nn.Module, slots: Sequence[Slot], staged: Staged) -> dict[str, torch.Tensor]:
    """Put the staged tensors into the model; returns the registered objects by first path.

    A parameter that was real stays the same object, so that optimizers keep it.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    objects = {slot.paths[0]: _object(slot, staged.tensors[slot.paths[0]]) for slot in slots}
    for slot in slots:
        value = objects[slot.paths[0]]
        if value is slot.tensor:
            value.data = staged.tensors[slot.paths[0]]
        for path in slot.live:
            table, name = registration(modules, path)
            table[name] = value
    return objects


def _object(slot: Slot, value: torch.Tensor) -> torch.Tensor:
    before = slot.tensor
    if not before.is_meta and before.device.type == value.device.type:
        return before
    if not isinstance(before, nn.Parameter):
        return value.data  # not a view: torch.compile compares a view with what it is a view of
    parameter = nn.Parameter(value, requires_grad=before.requires_grad)
    for name, mark in before.__dict__.items():
        setattr(parameter, name, mark)
    return parameter


def registration(modules: Mapping[str, nn.Module], path: str) -> tuple[dict[str, Any], str]:
    """Return the table of a module that a tensor is registered in, and its name there."""
    owner, _, name = path.rpartition(".")
    parameters: dict[str, Any] = modules[owner]._parameters  # noqa: SLF001
    return (parameters if name in parameters else modules[owner]._buffers), name  # noqa: SLF001

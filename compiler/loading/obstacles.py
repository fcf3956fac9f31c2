"""What stops a load, or is said about it, before a byte is read: files for disks, memory, larger weights."""

from __future__ import annotations

import gc
from collections.abc import Collection, Iterator, Mapping, Sequence

import torch

from ...ir import DISK, Diagnostic, Plan, Role, device_type, human_size
from ...ir.rules.loading import (
    DISK_WITHOUT_CHECKPOINT,
    LARGER_THAN_PLANNED,
    NO_MEMORY,
)
from ...ir.wording import in_words
from ..machine.host_memory import available_memory
from .seats import Seat


def disks_without_files(plan: Plan, seats: Sequence[Seat], kept: Collection[int]) -> list[Diagnostic]:
    """Report units for disk where no checkpoint is given; what is served from files already is kept there.

    ``kept`` has the ids of such tensors.
    """
    stored = ((seat, slot) for seat in seats for slot in seat.slots if slot.role is not Role.TRANSIENT)
    bare = (seat for seat, slot in stored if id(slot.tensor) not in kept)
    units = {seat.unit: seat.store for seat in bare if device_type(seat.store) == DISK}
    paths = [plan.units[unit].path or "." for unit in units]
    if not paths:
        return []
    message = f"{in_words(paths, 4)} is planned for disk, and no checkpoint is given to serve it from"
    help_ = "save the model and pass the folder as `checkpoint`"
    return [Diagnostic(DISK_WITHOUT_CHECKPOINT, message, help=help_)]


def short_memory(
    seats: Sequence[Seat], devices: Mapping[str, torch.device], *, moved: bool
) -> Iterator[Diagnostic]:
    """Report devices that have less free than the plan puts on them; what is ``moved`` may be there."""
    wanted: dict[torch.device, int] = {}
    for seat in seats:
        device = devices[seat.store]
        there = moved and all(slot.tensor.device == device for slot in seat.slots)
        if device_type(seat.store) != DISK and not there:
            wanted[device] = wanted.get(device, 0) + seat.nbytes
    for device, nbytes in wanted.items():
        free = free_memory(device)
        if free is not None and nbytes > free:
            gc.collect()  # a model that nobody has any more may still be there
            free = free_memory(device)
        if free is not None and nbytes > free:
            message = f"`{device}` has {human_size(free)} free, the plan puts {human_size(nbytes)} on it"
            help_ = f"free {human_size(nbytes - free)}, or compile the plan again for what is free"
            yield Diagnostic(NO_MEMORY, message, help=help_)


def larger_than_planned(plan: Plan, seats: Sequence[Seat]) -> Iterator[Diagnostic]:
    """Report weights that will take more than the plan counted: the dtype is not that of the plan."""
    tree = plan.tree
    if tree is None or tree.nbytes is None:
        return
    counted = {path: nbytes for path, nbytes in zip(tree.tensor_paths, tree.nbytes, strict=True) if nbytes}
    planned = loaded = 0
    for seat in seats:
        known = [counted[path] for slot in seat.slots for path in slot.paths if path in counted]
        planned, loaded = planned + max(known, default=0), loaded + (seat.nbytes if known else 0)
    if loaded > planned:
        message = f"the weights will take {human_size(loaded)}, the plan counts {human_size(planned)}"
        notes = (f"{loaded} bytes in the dtypes they are loaded as, {planned} bytes planned",)
        help_ = "pass `dtype` as it was when the plan was compiled, or compile the plan again"
        yield Diagnostic(LARGER_THAN_PLANNED, message, notes=notes, help=help_)


def free_memory(device: torch.device) -> int | None:
    """Return the bytes free on a device now; None where nothing tells."""
    if device.type == "cpu":
        return available_memory()[0]
    backend = getattr(torch, device.type, None)
    ask = getattr(backend, "mem_get_info", None)
    return None if ask is None else int(ask(device)[0])

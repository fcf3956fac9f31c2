"""What a checkpoint has in another form: read one group at a time, converted, and put where it belongs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from .asked import is_plain_float
from .conversions import Merge
from .jobs import Job
from .matching import Match
from .reading import read_all
from .seats import Seat, Slot
from .staging import Staged
from .stored_files import OpenFiles


def read_merged(
    match: Match, seats: Sequence[Seat], staged: Staged, files: OpenFiles, model: nn.Module
) -> None:
    """Fill the tensors that merges make and that are not read straight into their place."""
    slots = {path: slot for seat in seats for slot in seat.slots for path in slot.paths}
    wanted: dict[int, tuple[Merge, dict[str, Slot]]] = {}
    for path, merge in match.makers.items():
        if path in slots and path not in staged.placed:
            wanted.setdefault(id(merge), (merge, {}))[1][path] = slots[path]
    for merge, made in wanted.values():
        _read_one(merge, made, staged, files, model)


def _read_one(
    merge: Merge, slots: Mapping[str, Slot], staged: Staged, files: OpenFiles, model: nn.Module
) -> None:  # a function of its own: nothing of one group is left when the next is read
    wanted = next(iter(slots.values())).dtype
    values: list[torch.Tensor] = []
    jobs: list[Job] = []
    for _, source in merge.sources:
        stored: torch.dtype = getattr(torch, source.dtype)
        converts = is_plain_float(stored) and is_plain_float(wanted)
        values.append(torch.empty(source.shape, dtype=wanted if converts else stored))
        jobs.append(Job(source, stored, values[-1]))
    read_all(jobs, files, None)
    jobs.clear()
    for path, value in merge.run(values, model).items():
        if path in slots:
            staged.tensors[slots[path].paths[0]].copy_(value)

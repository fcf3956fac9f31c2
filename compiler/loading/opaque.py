"""Tensors of classes of their own: which of them a plan can have, and where."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
from torch import nn

from ...ir import DISK, Diagnostic, device_type
from ...ir.rules.loading import OPAQUE_WEIGHTS
from .seats import Seat, Slot


def opaque_weights(
    seats: Sequence[Seat], devices: Mapping[str, torch.device], stored: Collection[str]
) -> Iterator[Diagnostic]:
    """Yield a finding for each reason that keeps such tensors from their place; nothing has been read yet.

    Args:
        seats: where each tensor goes.
        devices: the torch device behind each device of the plan.
        stored: the paths that a checkpoint has values for.

    """
    found: dict[str, list[Slot]] = {}
    for seat in seats:
        for slot in seat.slots:
            reason = _reason(seat, slot, devices, stored)
            if reason is not None:
                found.setdefault(reason, []).append(slot)
    for reason, slots in found.items():
        message = f"`{slots[0].paths[0]}` is a `{_class_of(slots[0].tensor)}`, {reason}"
        notes = (f"{len(slots)} tensors are so",)
        help_ = "place its module where it is and runs, or quantise the model after loading"
        yield Diagnostic(OPAQUE_WEIGHTS, message, notes=notes, help=help_)


def _reason(
    seat: Seat, slot: Slot, devices: Mapping[str, torch.device], stored: Collection[str]
) -> str | None:
    if slot.compound is None and not _has_more(slot.tensor):
        return None
    if any(path in stored for path in slot.paths):
        return "which plain numbers of a checkpoint are no value for"
    if device_type(seat.store) == DISK:
        return "which no checkpoint serves from disk"
    if slot.compound is not None or (seat.store == seat.run and slot.tensor.device == devices[seat.store]):
        return None
    return "whose state torch does not show, so it can neither be streamed nor moved"


def _has_more(tensor: torch.Tensor) -> bool:
    """Say whether a tensor is a parameter with a state beside it, that moving it would not move."""
    return hasattr(tensor, "quant_state") or type(tensor).__module__.startswith("bitsandbytes.")


def _class_of(tensor: torch.Tensor) -> str:
    inner = tensor.data if type(tensor) is nn.Parameter else tensor
    return type(inner).__name__

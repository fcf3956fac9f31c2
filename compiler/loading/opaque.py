"""Tensors of classes of their own, which moving memory would not move whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ...ir import Diagnostic
from ...ir.rules.loading import OPAQUE_WEIGHTS
from .seats import Seat


def opaque_weights(seats: Sequence[Seat]) -> Iterator[Diagnostic]:
    """Yield a finding for what is planned to be streamed and cannot be; nothing has been read yet."""
    found = {
        slot.paths[0]: _class_of(slot.tensor)
        for seat in seats
        if seat.store != seat.run
        for slot in seat.slots
        if _is_opaque(slot.tensor)
    }
    if found:
        path, kind = next(iter(found.items()))
        message = f"`{path}` is planned to be streamed, and is a `{kind}`, which torch shows no memory of"
        notes = (f"{len(found)} tensors of such classes are to be streamed",)
        help_ = "place its module where it runs, or quantise the model after loading"
        yield Diagnostic(OPAQUE_WEIGHTS, message, notes=notes, help=help_)


def _is_opaque(tensor: torch.Tensor) -> bool:
    """Say whether a tensor is more than its memory: made of parts, or a parameter with a state beside it."""
    if is_traceable_wrapper_subclass(tensor):
        return True
    return hasattr(tensor, "quant_state") or type(tensor).__module__.startswith("bitsandbytes.")


def _class_of(tensor: torch.Tensor) -> str:
    inner = tensor.data if type(tensor) is nn.Parameter else tensor
    return type(inner).__name__

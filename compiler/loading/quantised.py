"""Quantised checkpoints: the quantizer that wrote one has to be in the model before weights are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...ir import Diagnostic
from ...ir.rules.loading import QUANTISED_CHECKPOINT
from ..sources.checkpoint import read_config
from ..sources.checkpoint_index import CheckpointIndex
from ..sources.unpacking import method_of

if TYPE_CHECKING:
    import torch
    from torch import nn


def quantised_checkpoint(index: CheckpointIndex, model: nn.Module) -> Diagnostic | None:
    """Return why a quantised checkpoint cannot be read into a model that is not; None where it is not so."""
    folder = index.files[0].path.parent
    method = method_of(read_config(folder / "config.json"))
    if method is None or _is_quantised(model):
        return None
    message = f"the weights of `{folder}` are quantised ({method}), the model is built for plain ones"
    help_ = f"`load_pretrained({str(folder)!r}, plan)` loads it by transformers' own quantizer"
    return Diagnostic(QUANTISED_CHECKPOINT, message, help=help_)


def _is_quantised(model: nn.Module) -> bool:
    """Say whether a quantizer has prepared the model, or it holds packed weights of its own."""
    if getattr(model, "hf_quantizer", None) is not None or getattr(model, "is_quantized", False):
        return True
    tensors = (*model.parameters(), *model.buffers())
    return any(tensor.dim() > 1 and _is_packed(tensor) for tensor in tensors)


def _is_packed(tensor: torch.Tensor) -> bool:
    """Say whether numbers are smaller than those plain models have: eight-bit floats, or integers."""
    return tensor.itemsize == 1 or (not tensor.is_floating_point() and tensor.itemsize < 8)

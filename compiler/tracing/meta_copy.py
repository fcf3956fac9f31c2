"""A model's structure on the meta device: the same modules, the same ties, no weights copied.

The user's model is only read. Tensors become meta tensors of the same shape, stride and dtype; the
very same tensor under two names stays the very same tensor.
"""

from __future__ import annotations

import copy
from typing import TypeAlias

import torch
from torch import nn

from ..running.nesting import Untyped
from .shadows import MAX_NUMEL

Values: TypeAlias = dict[torch.Tensor, torch.Tensor]
"""Values by the meta tensor they belong to."""


def copy_to_meta(model: nn.Module, dtype: str | None = None) -> tuple[nn.Module, Values]:
    """Return a copy of the model on the meta device, in evaluation mode, wider floats narrowed to a dtype.

    With it come the values of its small buffers of whole numbers, such as positions, strides and masks.
    """
    narrow = getattr(torch, dtype or "", None)
    kind = narrow if isinstance(narrow, torch.dtype) else None
    memo: dict[int, Untyped] = {}
    for module in model.modules():
        for tensor in _registered(module):
            if id(tensor) not in memo:
                memo[id(tensor)] = _on_meta(tensor, kind)
    for module in model.modules():
        for item in vars(module).values():
            if isinstance(item, torch.Tensor) and id(item) not in memo:
                memo[id(item)] = _attribute(item)
    values = {memo[id(buffer)]: buffer.detach() for buffer in model.buffers() if _is_small_number(buffer)}
    return copy.deepcopy(model, memo).eval(), values


def _is_small_number(buffer: torch.Tensor) -> bool:
    whole = not buffer.is_floating_point() and not buffer.is_complex()
    return buffer.device.type == "cpu" and whole and buffer.numel() <= MAX_NUMEL


def _registered(module: nn.Module) -> list[torch.Tensor]:
    attributes = [*module._parameters.values(), *module._buffers.values()]  # noqa: SLF001
    return [item for item in attributes if item is not None]


def _attribute(tensor: torch.Tensor) -> torch.Tensor:
    """Copy a tensor no loader moves: where it is, and small ones with their values."""
    if tensor.device.type == "cpu" and tensor.numel() <= MAX_NUMEL:
        return tensor.detach().clone()
    return _on_meta(tensor)


def _on_meta(tensor: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    narrower = dtype is not None and tensor.is_floating_point() and dtype.itemsize < tensor.itemsize
    kind = dtype if narrower else tensor.dtype
    if tensor.layout is torch.strided:
        made = torch.empty_strided(tensor.size(), tensor.stride(), dtype=kind, device="meta")
    else:
        made = torch.empty(tensor.size(), dtype=kind, device="meta")
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(made, requires_grad=False)
    return made

"""Attention as the one fused op it is on every real device, with what it keeps for the way back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..running.nesting import Untyped


class Fused(torch.autograd.Function):
    """Makes the result and the logarithms of its sums; keeps both and its inputs for the way back.

    On an accelerator the gradient of the queries is summed up in float32 first.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, on_host: bool) -> tuple[Tensor, Tensor]:
        """Return tensors of the right shapes; the result lies in memory as the queries do."""
        batch, heads, length, width = query.shape
        if width == value.shape[-1]:
            made = torch.empty_like(query)
        else:
            made = query.new_empty(batch, length, heads, value.shape[-1]).transpose(1, 2)
        sums = query.new_empty(batch, heads, length, dtype=torch.float32)
        ctx.save_for_backward(query, key, value, made, sums)
        ctx.mark_non_differentiable(sums)
        ctx.on_host = on_host
        return made, sums

    @staticmethod
    def backward(ctx: Any, *_gradients: Tensor) -> Untyped:
        """Return gradients of the inputs' shapes."""
        query, key, value, _, _ = ctx.saved_tensors
        work = None if ctx.on_host else query.new_empty(query.shape, dtype=torch.float32)
        made = tuple(torch.empty_like(each) for each in (query, key, value))
        del work
        return (*made, None)

"""Attention as the one fused op it is on every real device, with what it keeps for the way back."""

from __future__ import annotations

import torch
from torch import Tensor

from ...ir import CPU
from ..running.nesting import Untyped


class _Fused(torch.autograd.Function):
    """Makes the result and the logarithms of its sums; keeps both and its inputs for the way back.

    A mask of yes and no is turned into numbers, which are kept as well. On an accelerator the gradient of the
    queries is summed up in float32 first.
    """

    @staticmethod
    def forward(
        ctx: Untyped, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, device: str
    ) -> tuple[Tensor, ...]:
        """Return result, sums and mask, of the right shapes; the result lies in memory as the queries do."""
        batch, heads, length, width = query.shape
        if width == value.shape[-1]:
            made = torch.empty_like(query)
        else:
            made = query.new_empty(batch, length, heads, value.shape[-1]).transpose(1, 2)
        sums = query.new_empty(batch, heads, length, dtype=torch.float32)
        turned = mask is not None and mask.dtype is torch.bool
        added = (query.new_empty(mask.shape),) if mask is not None and turned else ()
        ctx.save_for_backward(query, key, value, made, sums, *(added if mask is None or turned else (mask,)))
        ctx.mark_non_differentiable(sums, *added)
        ctx.on_host = device == CPU
        return (made, sums, *added)

    @staticmethod
    def backward(ctx: Untyped, *_gradients: Tensor) -> Untyped:
        """Return gradients of the inputs' shapes."""
        query, key, value = ctx.saved_tensors[:3]
        work = None if ctx.on_host else query.new_empty(query.shape, dtype=torch.float32)
        made = tuple(torch.empty_like(each) for each in (query, key, value))
        del work
        return (*made, None, None)


def fused(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, device: str) -> tuple[Tensor, ...]:
    """Return the result, the logarithms of its sums, and the numbers a mask of yes and no is turned into."""
    made: tuple[Tensor, ...] = _Fused.apply(query, key, value, mask, device)  # type: ignore[no-untyped-call]
    return made

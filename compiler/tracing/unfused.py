"""What attention takes where no kernel is fused: the bytes of its scores and scaled inputs at their highest.

The CPU's fused kernel wants keys as wide as values; latent attention has wider ones, and torch computes it
step by step. So it does on cards where a mask does not lie row by row (T5's positions before transformers
5.20), for widths no kernel reads and in float64. Those steps are run on the meta device and what is alive is
counted. Which kernels take what: `sdp_utils.cpp` and `attention.cpp` of torch.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from ..running.nesting import Untyped
from .alive_now import EachAlive

_STEPS: Final = torch.ops.aten._scaled_dot_product_attention_math  # noqa: SLF001
_HALVES: Final = frozenset({torch.bfloat16, torch.float16})
_WIDEST: Final = 256
"""What flash attention reads at most, and pads where it must."""
_LOAD: Final = 16
"""Bytes the memory-efficient kernel reads at once."""
_ALIGNED: Final = 8
"""Numbers from row to row of a mask it takes as it is a multiple of."""


def is_fused_on_cards(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> bool:
    """Say whether an accelerator has a kernel for attention with these arguments."""
    there = (query, key, value) if mask is None else (query, key, value, mask)
    if query.dtype is torch.float64 or any(each.stride(-1) != 1 for each in there):
        return False
    widths = (query.shape[-1], value.shape[-1])
    if mask is None and query.dtype in _HALVES and max(widths) <= _WIDEST and widths[0] == widths[1]:
        return True
    return all(width * query.itemsize % _LOAD == 0 for width in widths)


def padded_nbytes(query: Tensor, mask: Tensor | None) -> int:
    """Return the bytes of the copy that a fused kernel of a card needs of a mask with odd rows."""
    if mask is None or not any(step % _ALIGNED for step in mask.stride()[:-1]):
        return 0
    width = mask.shape[-1]
    rows = mask.numel() // max(1, width)
    return rows * (width + _ALIGNED - width % _ALIGNED) * query.itemsize


def unfused_sizes(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    dropout: float = 0.0,
    is_causal: bool = False,
    **options: Untyped,
) -> tuple[int, ...]:
    """Return the bytes of what attention has beside its arguments, on the meta device, when that is most.

    A mask of yes and no is turned into numbers first.
    """
    given = [torch.empty_like(each) for each in (query, key, value)]
    added = None if mask is None else torch.empty_like(mask, dtype=query.dtype)
    alive = EachAlive()
    alive.leave_out((*given, *([] if added is None else [added])))
    with alive:
        _STEPS(*given, added, dropout, is_causal, None, **options)
    turned = added is not None and mask is not None and mask.dtype is torch.bool
    return (*alive.highest, *([added.nbytes] if turned and added is not None else []))


def less(sizes: tuple[int, ...], nbytes: int) -> tuple[int, ...]:
    """Return sizes that are so many bytes fewer together, taken from the largest."""
    left = list[int]()
    for size in sorted(sizes, reverse=True):
        left.append(max(0, size - nbytes))
        nbytes -= size - left[-1]
    return tuple(size for size in left if size)

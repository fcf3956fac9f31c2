"""What attention takes where no kernel is fused: the bytes of its scores and scaled inputs at their highest.

The CPU's fused kernel wants keys as wide as values; latent attention has wider ones, and torch computes it
step by step. Those steps are run on the meta device and what is alive is counted.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from ..running.nesting import Untyped
from .alive_now import AliveNow

_STEPS: Final = torch.ops.aten._scaled_dot_product_attention_math  # noqa: SLF001


def unfused_nbytes(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    dropout: float = 0.0,
    is_causal: bool = False,
    **options: Untyped,
) -> int:
    """Return the most bytes that attention has alive beside its arguments, which are on the meta device.

    A mask of yes and no is turned into numbers first.
    """
    given = [torch.empty_like(each) for each in (query, key, value)]
    added = None if mask is None else torch.empty_like(mask, dtype=query.dtype)
    alive = AliveNow()
    alive.leave_out((*given, *([] if added is None else [added])))
    with alive:
        _STEPS(*given, added, dropout, is_causal, None, **options)
    turned = added is not None and mask is not None and mask.dtype is torch.bool
    return alive.peak + (added.nbytes if turned and added is not None else 0)

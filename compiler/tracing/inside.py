"""What kernels make and let go inside, which nobody sees who watches ops.

A safe softmax looks for rows without any score. A card sorts rows of up to 4,096 numbers where they lie, once
it has their places; longer ones go back and forth between two copies of numbers and places, by eight bits at
a time. Of several rows together pairs of row and place are sorted, once by the numbers and once by the rows.
That is `Sort.cpp`, `Sort.cu`, `SortStable.cu` and `cub-RadixSortPairs.cu` of torch, and what the radix sort
of CUB (`dispatch_radix_sort.cuh`) asks for: what it knows of its tiles is less than a byte for each number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from ..running.nesting import Untyped

_IN_PLACE: Final = 4096
_PLACE: Final = 8
"""Bytes of a place, and of a row and a place in it."""
_ALONE: Final = 1_000_000
"""Rows from this length on are sorted one after the other."""
_FEW: Final = 128
"""So many rows together, and more, are segments of one sort."""
_COUNTS: Final = 1 << 16
"""Bytes for how often each value of eight bits is there, and the like."""


def inside(
    packet: Untyped, args: Sequence[Untyped], kwargs: Mapping[str, Untyped], *, on_host: bool
) -> tuple[int, ...]:
    """Return the bytes of what an op makes and lets go inside, where it is run."""
    if packet is torch.ops.aten._safe_softmax:  # noqa: SLF001
        scores = args[0]
        return (scores.numel(), scores.numel() // max(1, scores.shape[-1]), scores.itemsize)
    if packet is torch.ops.aten.sort and not on_host:
        axis = kwargs.get("dim", next((each for each in args[1:2]), -1))
        return _sorting(args[0], axis)
    return ()


def _sorting(keys: Tensor, axis: int) -> tuple[int, ...]:
    """Return what a card has beside the keys and what comes out while it sorts: an upper bound."""
    if not keys.dim() or not keys.numel():
        return ()
    length, width = keys.shape[axis], keys.itemsize
    if length <= _IN_PLACE:
        return (length * _PLACE,)
    rows = keys.numel() // length
    alone = rows == 1 or length >= _ALONE
    count = length if alone else keys.numel()
    work = count * (width + _PLACE + 1) + _COUNTS
    paired = (count * _PLACE, count * width) if not alone and rows < _FEW else ()
    lies_otherwise = not keys.is_contiguous() or axis not in {-1, keys.dim() - 1}
    moved = (keys.nbytes, keys.nbytes, keys.numel() * _PLACE) if lies_otherwise else ()
    return (*moved, count * _PLACE, *paired, work)

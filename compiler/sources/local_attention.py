"""Attention in blocks, as a configuration tells of it: of how many tokens each keeps the scores.

What is shorter than a block is padded to one, so a short text takes as much as a block; of a long one each
token sees its neighbours, and some that all see, instead of all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from .config_numbers import first_told, integer

_RADIUS: Final = ("local_radius",)
_SUMMED_UP: Final = ("global_block_size",)
_ALL_SEE: Final = ("num_global_tokens",)
_RANDOM: Final = ("num_random_blocks",)
_BLOCK: Final = ("block_size",)


def scores_kept(text: Mapping[str, Any], length: int) -> int | None:
    """Return the scores each of so many tokens keeps for a head, those of padding shared; None for all."""
    found = _in_blocks(text, length)
    return None if found is None else -(-found[0] * found[1] // max(1, length))


def _in_blocks(text: Mapping[str, Any], length: int) -> tuple[int, int] | None:
    """Return how many tokens are read with padding, and how many each of them sees."""
    if (radius := first_told(text, _RADIUS)) is not None:  # longt5: its block, and one on either side
        block, summed = radius + 1, first_told(text, _SUMMED_UP)
        sums = -(-length // summed) if summed and text.get("encoder_attention_type") != "local" else 0
        return padded(length, block), 3 * block + sums
    if (window := _window(text)) is not None:  # longformer, led: half of it on either side
        return padded(length, window), window + 1
    random, size = first_told(text, _RANDOM), first_told(text, _BLOCK)
    if random and size and text.get("attention_type") == "block_sparse" and "decoder_layers" not in text:
        if length <= (5 + 2 * random) * size:  # big_bird sees a short text whole, and what a decoder reads
            return None
        return padded(length, size), (6 + random) * size + length // 8
    seen = first_told(text, _ALL_SEE)
    if seen and size:  # pegasus_x: every second layer has blocks that begin half a block earlier
        return padded(length, size) + size, size + seen
    return None


def _window(text: Mapping[str, Any]) -> int | None:
    """Return the widest window of all layers."""
    told = text.get("attention_window")
    each = told if isinstance(told, list) else [told]
    return max((size for size in map(integer, each) if size is not None), default=None)


def padded(length: int, block: int) -> int:
    """Return how many tokens blocks of a size read of so many."""
    return -(-length // block) * block

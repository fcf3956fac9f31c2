"""What llama.cpp keeps beside the weights of a GGUF file: the cells of its cache, the buffers of its graphs.

It takes both when it starts, in full: a cache of all cells, and on every device one buffer that holds the
widest moment of a batch of 512 tokens. Of the scores only those it samples from are made, one a sequence.
Attention is fused, which is its own choice wherever the device can. Read and measured at b10359.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from math import prod
from typing import Any, Final

from ...ir import Demand, ModuleTree, Workload
from ...ir.purposes import ACTIVATIONS, LOGITS
from .config_cache import cache_of_config
from .config_numbers import integer
from .gguf_numbers import CAUSAL, UNTOLD

USUAL: Final = Workload(prompt=3968, tokens=128, added=True)
"""What is planned for when nobody says: the shortest context its own planner falls back to."""
SECOND_EMBEDDING: Final = "second embedding"
"""A file whose head is its embedding is loaded with two of them: on the host, and where the head is."""
_TABLE: Final = "token_embd.weight"
_BATCH: Final = 512
_CELLS: Final = 256
"""Caches are made of so many cells, and a multiple."""
_COPIES: Final = 4
"""How often inputs are held where several accelerators work at once."""
_FLOAT32, _MASK = 4, 2
_SMALL: Final = 64 << 10
"""Positions, numbers of tokens, rounding."""

Shapes = Mapping[str, tuple[int, ...]]


def cells(tokens: int, window: int | None) -> int:
    """Return for how many tokens a layer has cells; a window keeps a batch beside what it sees."""
    whole = _rounded(tokens)
    return whole if window is None else min(whole, _rounded(window + _BATCH))


def room_demands(
    config: Mapping[str, Any], tree: ModuleTree, shapes: Shapes, tokens: int, rows: int, *, several: bool
) -> tuple[Demand, ...]:
    """Return the bytes kept and held for a moment; none where the cache cannot be told.

    Args:
        config: the file's numbers, by the names of a ``config.json``.
        tree: the model.
        shapes: the shape of each tensor by its name, whatever it is packed to.
        tokens: of one sequence, read and written.
        rows: sequences at once.
        several: the layers may be on more than one accelerator.

    """
    keeps = config.get(CAUSAL) is not False
    kept = () if UNTOLD in config or not keeps else cache_of_config(config, tree, tokens, rows, cells)
    hidden = integer(config.get("hidden_size"))
    if (keeps and not kept) or hidden is None:
        return kept
    chosen = integer(config.get("num_experts_per_tok")) or 1
    batch = min(_BATCH, tokens * rows)
    window = integer(config.get("sliding_window"))
    seen = _rounded(tokens) + (0 if window is None else cells(tokens, window))
    mask = batch * seen * _MASK
    again = (_COPIES - 1) * (mask + batch * hidden * _FLOAT32) if several else 0
    widths = _widths(shapes, hidden, chosen)
    layers = [
        Demand(batch * width * _FLOAT32 + mask + again + _SMALL, path, ACTIVATIONS, added=True)
        for path, width in widths.items()
    ]
    return (*kept, *layers, *_ends(tree, shapes, batch, rows))


def _rounded(tokens: int) -> int:
    return -(-tokens // _CELLS) * _CELLS


def _ends(tree: ModuleTree, shapes: Shapes, batch: int, rows: int) -> Iterator[Demand]:
    """Yield what the embedding and the head need."""
    shape = shapes.get(_TABLE, ())
    vocabulary, hidden = shape if len(shape) == 2 else (0, 0)
    yield Demand(batch * hidden * _FLOAT32, "token_embd", ACTIVATIONS, added=True)
    head = next((path for path in ("output", "output_norm") if path in tree.module_index), None)
    if head is not None:
        yield Demand(rows * vocabulary * _FLOAT32, head, LOGITS, added=True)
    table = tree.tensor_index.get(_TABLE)
    if head == "output_norm" and tree.nbytes is not None and table is not None:
        yield Demand(tree.nbytes[table], head, SECOND_EMBEDDING, added=True)


def _widths(shapes: Shapes, hidden: int, chosen: int) -> dict[str, int]:
    """Return how many numbers each layer holds of one token at its widest."""
    results: dict[str, dict[str, int]] = {}
    for name, shape in shapes.items():
        match = re.fullmatch(r"(blk\.\d+)\.(\w+)\.weight", name)
        if match is not None and len(shape) > 1:
            expert = match[2].endswith("_exps")
            results.setdefault(match[1], {})[match[2]] = shape[1] if expert else prod(shape[:-1])
    return {path: _width(found, hidden, chosen) for path, found in results.items()}


def _width(results: Mapping[str, int], hidden: int, chosen: int) -> int:
    """Return the numbers of a token at the widest of a layer: in its attention, or behind it."""

    def of(start: str, *, experts: bool = False) -> list[int]:
        names = (n for n in results if n.startswith(start) and n.endswith("_exps") == experts)
        return [results[name] for name in names if not name.endswith("_inp")]

    attention, forward, experts = of("attn_"), of("ffn_"), of("ffn_", experts=True)
    # The widest result is there as it is made, turned, attended to and put together.
    seen = sum(attention) + 3 * max(attention, default=0)
    several = max(3 * chosen * max(experts), 2 * chosen * hidden) if experts else 0
    behind = 3 * max(forward, default=0) + several
    others = 3 * sum(size for name, size in results.items() if not name.startswith(("attn_", "ffn_")))
    return max(2 * hidden + seen, 5 * hidden + behind, 5 * hidden + others)

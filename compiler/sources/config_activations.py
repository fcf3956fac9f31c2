"""What a forward needs beside weights, by the shapes of the weights and a configuration: an upper estimate.

For plans without a trace. Each part of a layer holds what comes in, the results of all its matrices, and one
more of the widest, where two are multiplied or a function is applied; of experts as many as a token takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from ...ir import Demand, ModuleTree
from ...ir.purposes import ACTIVATIONS, LOGITS
from .config_cache import number_width
from .config_work import TABLE, chosen_experts

_FLOAT32: Final = 4
HEADS: Final = ("lm_head", "embed_out", "output")


def activation_demands(
    config: Mapping[str, Any], tree: ModuleTree, tokens: int, rows: int
) -> tuple[Demand, ...]:
    """Return what each layer, the table and the head need while they run.

    Args:
        config: the configuration, as read.
        tree: the model.
        tokens: how many are read at once, all sequences together.
        rows: of how many the scores are made.

    """
    width, chosen = number_width(config, tree), chosen_experts(config)
    found = [
        Demand(tokens * elements * width, tree.paths[layer], ACTIVATIONS, added=True)
        for layer in _layers(tree)
        if (elements := _elements(tree, layer, chosen))
    ]
    for module, path in enumerate(tree.paths):
        shapes = [tree.shapes[tensor] for tensor in tree.own_tensors(module)]
        if len(shapes) != 1 or len(shapes[0]) != 2:
            continue
        if TABLE.search(path):
            found.append(Demand(tokens * shapes[0][1] * width, path, ACTIVATIONS, added=True))
        elif tree.names[module] in HEADS:
            scores = rows * shapes[0][0] * (width + _FLOAT32)
            found.append(Demand(scores, path, LOGITS, added=True))
    return tuple(found)


def _layers(tree: ModuleTree) -> Iterator[int]:
    """Yield the outermost modules of numbered lists."""
    module = 0
    while module < len(tree):
        if tree.names[module].isdecimal() and len(tree.tensors(module)):
            yield module
            module = tree.ends[module]
        else:
            module += 1


def _elements(tree: ModuleTree, layer: int, chosen: int) -> int:
    """Return how many numbers a layer holds of one token at its widest."""
    hidden = max((tree.shapes[t][0] for t in tree.tensors(layer) if len(tree.shapes[t]) == 1), default=0)
    parts = [_part(tree, child, chosen) for child in tree.children(layer)]
    return 4 * hidden + max(parts, default=0) if parts else 0


def _part(tree: ModuleTree, part: int, chosen: int) -> int:
    results = list(_results(tree, part, chosen))
    return sum(results) + max(results, default=0)


def _results(tree: ModuleTree, part: int, chosen: int) -> Iterator[int]:
    """Yield the widths of the results of a part's matrices; of a list of experts those a token takes."""
    module = part
    while module < tree.ends[part]:
        if tree.names[module].isdecimal() and module != part:
            number = int(tree.names[module])
            if number >= chosen:
                module = tree.ends[module]
                continue
        for tensor in tree.own_tensors(module):
            shape = tree.shapes[tensor]
            if len(shape) == 2:
                yield shape[0]
            elif len(shape) == 3:  # of all experts at once: the rows they are given count too
                yield chosen * sum(shape[1:])
        module += 1

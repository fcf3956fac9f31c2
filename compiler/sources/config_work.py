"""What a model's configuration tells of its work: tables are looked up in, of experts a few are chosen.

Without a trace every weight counts two operations a token. That is right for what is multiplied, and wrong
for the parts that decide how a mixture is best placed; these get `work` lines of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from math import prod
from typing import Any, Final

from ...ir import ModuleTree, Work
from .config_numbers import first_told

_CHOSEN: Final = (
    "num_experts_per_tok", "num_experts_per_token", "moe_top_k", "moe_topk", "top_k_experts",
    "num_selected_experts", "moe_k", "top_k",
)  # fmt: skip
_EXPERTS: Final = (
    "num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts", "num_routed_experts",
)  # fmt: skip
_INNER: Final = ("text_config", "llm_config", "language_config", "thinker_config", "ffn_config")
ROUTED: Final = re.compile(r"(?:^|_)experts$")
"""Names of experts of which a token takes a few."""
TABLE: Final = re.compile(r"(?:^|\.)(?:embed_tokens|wte|word_embeddings|tok_embeddings|embed_in|shared)$")
"""Tables that tokens are looked up in."""


def config_work(config: Mapping[str, Any], tree: ModuleTree) -> tuple[Work, ...]:
    """Return rows of work, one token long, for the tables and the experts of a model."""
    share = _share_of_experts(config)
    experts = [] if share is None else list(_experts(tree, share))
    return (*_tables(tree), *experts)


def _tables(tree: ModuleTree) -> Iterator[Work]:
    """Yield tables that are looked up in; what is tied to one is multiplied and told nothing of."""
    for module, kind in enumerate(tree.classes):
        own = tree.own_tensors(module)
        if len(own) == 1 and (kind == "Embedding" or TABLE.search(tree.paths[module])):
            yield Work(0, tree.paths[module], 1)


def chosen_experts(config: Mapping[str, Any], *, at_once: bool = False) -> int:
    """Return how many experts a token takes; 1 where that is not told. ``at_once`` each takes every token."""
    parts = (config, *(config[name] for name in _INNER if isinstance(config.get(name), Mapping)))
    names = _EXPERTS if at_once else _CHOSEN
    return next((chosen for part in parts if (chosen := first_told(part, names))), 1)


def _share_of_experts(config: Mapping[str, Any]) -> float | None:
    """Return which share of the experts a token takes; None where that is not told."""
    for part in (config, *(config[name] for name in _INNER if isinstance(config.get(name), Mapping))):
        chosen, count = first_told(part, _CHOSEN), first_told(part, _EXPERTS)
        if chosen and count and chosen < count:
            return chosen / count
    return None


def _experts(tree: ModuleTree, share: float) -> Iterator[Work]:
    """Yield the routed experts: two operations for each weight of those that are chosen."""
    for module, name in enumerate(tree.names):
        if ROUTED.search(name) and "shared" not in name and len(tree.tensors(module)):
            weights = sum(prod(tree.shapes[tensor]) for tensor in tree.tensors(module))
            yield Work(round(2 * weights * share), tree.paths[module], 1)

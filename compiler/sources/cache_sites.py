"""Where in a tree of names a model keeps something for the next token: attentions and running states.

Only the layers that produce text count: encoders, towers for pictures and sound, and the extra layers
some checkpoints carry for speculation keep nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Final, NamedTuple

from ...ir import ModuleTree

KEYS: Final = frozenset({"k_proj", "key_proj", "key", "k", "wk", "k_lin", "attn_k", "k_proj_weight"})
VALUES: Final = frozenset({"v_proj", "value_proj", "value", "v", "wv", "v_lin", "attn_v", "v_proj_weight"})
_FUSED: Final = frozenset(
    {
        "query_key_value",
        "c_attn",
        "qkv_proj",
        "Wqkv",
        "wqkv",
        "qkv",
        "attn_qkv",
        "att_proj",
        "in_proj_weight",
        "kv_a_proj_with_mqa",
        "kv_a_proj",
        "W_pack",
    }
)
_STATES: Final = frozenset({"conv1d", "ssm_conv1d"})
_SHORT_CONVOLUTION: Final = "conv"
"""A module of this name with a convolution of this name inside: it keeps the last inputs."""
_MIXES_BY_TIME: Final = frozenset({"receptance", "time_maa_k", "time_mix_key", "x_r"})
_KEEPS_NOTHING: Final = re.compile(r"(?:^|[._])(?:encoders?|vision|visual|vit|image|audio|speech|mtp)")
_ENCODERS: Final = ("ForMaskedLM", "ForPreTraining")


class Keeps(Enum):
    """What a module keeps between two tokens."""

    TOKENS = "keys and values of each token"
    STATE = "a state of fixed size"


class Site(NamedTuple):
    """A module of a layer that keeps something."""

    layer: int
    module: int
    keeps: Keeps


def cache_sites(tree: ModuleTree, layers: int | None, architecture: str) -> tuple[Site, ...]:
    """Return what keeps something, in tree order; ``layers`` is how many layers the model runs."""
    if architecture.endswith(_ENCODERS):
        return ()
    found = [sites for stack in _stacks(tree) if (sites := tuple(_sites_in(tree, stack, layers)))]
    whole = [sites for sites in found if layers is not None and sites[-1].layer + 1 == layers]
    return max(whole or found, key=len, default=())


def _stacks(tree: ModuleTree) -> Iterator[Sequence[int]]:
    """Yield the elements of each outermost numbered list that may produce text."""
    paths = tree.paths
    module = 0
    while module < len(tree):
        children = tree.children(module)
        if children and all(tree.names[child].isdecimal() for child in children):
            if not _KEEPS_NOTHING.search(paths[module]):
                yield children
            module = tree.ends[module]
        else:
            module += 1


def _sites_in(tree: ModuleTree, stack: Sequence[int], layers: int | None) -> Iterator[Site]:
    for element in stack:
        number = int(tree.names[element])
        if layers is None or number < layers:
            yield from (Site(number, module, keeps) for module, keeps in _kept_below(tree, element))


def _kept_below(tree: ModuleTree, element: int) -> Iterator[tuple[int, Keeps]]:
    for module in range(element, tree.ends[element]):
        names = {tree.names[child] for child in tree.children(module)}
        names.update(tree.tensor_names[tensor] for tensor in tree.own_tensors(module))
        if names & _MIXES_BY_TIME:
            continue
        if names & _STATES or tree.names[module] == _SHORT_CONVOLUTION in names:
            yield module, Keeps.STATE
        elif names & _FUSED or (names & KEYS and (names & VALUES or "q_proj" in names)):
            yield module, Keeps.TOKENS

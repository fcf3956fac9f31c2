"""Where in a tree of names a model keeps something for the next token: attentions and running states.

Only the layers that produce text count: encoders, towers for pictures and sound, and the extra layers
some checkpoints carry for speculation keep nothing. Attention to an encoder keeps what the encoder read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

from ...ir import ModuleTree

KEYS: Final = frozenset({"k_proj", "key_proj", "key", "k", "wk", "k_lin", "attn_k", "k_proj_weight"})
VALUES: Final = frozenset({"v_proj", "value_proj", "value", "v", "wv", "v_lin", "attn_v", "v_proj_weight"})
FUSED: Final = frozenset(
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
        "attn_kv_a_mqa",
        "W_pack",
    }
)
PAIRED: Final = frozenset({"kv_proj"})
"""A projection that makes keys and values at once, the queries elsewhere."""
_STATES: Final = frozenset({"conv1d", "ssm_conv1d"})
DECAYS: Final = frozenset({"A_log", "ssm_a"})
"""The tensors of a running state; a convolution without one is of a kind only code tells."""
_SHORT_CONVOLUTION: Final = "conv"
"""A module of this name with a convolution of this name inside: it keeps the last inputs."""
_INDEX: Final = "indexer"
"""Keeps keys of its own, by which an attention chooses the tokens it looks at."""
_CROSS: Final = re.compile(r"encoder_attn|cross_?attn|cross_?attention|EncDecAttention", re.IGNORECASE)
_ONLY_CODE_TELLS: Final = frozenset(
    {"receptance", "time_maa_k", "time_mix_key", "x_r", "rg_lru", "igate_preact", "fgate_preact"}
)
_KEEPS_NOTHING: Final = re.compile(r"(?:^|[._])(?:encoders?|enc\.|vision|visual|vit|image|audio|speech|mtp)")
_ENCODERS: Final = ("ForMaskedLM", "ForPreTraining")
_WITHOUT_ATTENTION: Final = frozenset({"mlp", "moe"})


class Keeps(Enum):
    """What a module keeps between two tokens."""

    TOKENS = "keys and values of each token"
    KEYS = "keys of each token"
    READ = "keys and values of each token the encoder read"
    STATE = "a state of fixed size"


class CacheSite(NamedTuple):
    """A module of a layer that keeps something."""

    layer: int
    module: int
    keeps: Keeps


@dataclass(frozen=True, slots=True)
class Layers:
    """What a configuration tells of the layers that produce text."""

    count: int | None
    """How many the model runs."""
    kinds: Sequence[str]
    architecture: str
    reads_encoder: bool
    """Whether there is an encoder, and this class runs it."""


def cache_sites(tree: ModuleTree, layers: Layers) -> tuple[CacheSite, ...]:
    """Return what keeps something, in tree order; nothing where a layer keeps what cannot be told."""
    if layers.architecture.endswith(_ENCODERS):
        return ()
    stacks = [_Stack(*_sites_in(tree, stack, layers.count)) for stack in _stacks(tree)]
    found = [stack for stack in stacks if stack.sites]
    whole = [stack for stack in found if layers.count is not None and len(stack.layers) == layers.count]
    chosen = max(whole or found, key=lambda stack: len(stack.sites), default=_Stack((), ()))
    if len({len(stack.sites) for stack in whole}) < len(whole) or not _all_told(chosen, layers):
        return ()
    if layers.reads_encoder:
        return chosen.sites if any(site.keeps is Keeps.READ for site in chosen.sites) else ()
    return tuple(site for site in chosen.sites if site.keeps is not Keeps.READ)


class _Stack(NamedTuple):
    """A numbered list of layers, those the model does not run left out."""

    layers: tuple[int, ...]
    sites: tuple[CacheSite, ...]


def _all_told(stack: _Stack, layers: Layers) -> bool:
    """Say whether every layer keeps something known, or is said to keep nothing."""
    told = {site.layer for site in stack.sites}
    told.update(i for i, kind in enumerate(layers.kinds) if kind in _WITHOUT_ATTENTION)
    return told.issuperset(stack.layers)


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


def _sites_in(
    tree: ModuleTree, stack: Sequence[int], layers: int | None
) -> tuple[tuple[int, ...], tuple[CacheSite, ...]]:
    run = [element for element in stack if layers is None or int(tree.names[element]) < layers]
    numbers = tuple(int(tree.names[element]) for element in run)
    found = zip(numbers, run, strict=True)
    return numbers, tuple(
        CacheSite(n, module, keeps) for n, e in found for module, keeps in _kept_below(tree, e)
    )


def _kept_below(tree: ModuleTree, element: int) -> Iterator[tuple[int, Keeps]]:
    module = element
    while module < tree.ends[element]:
        keeps = _keeps(tree, module)
        if keeps is not None:
            yield module, keeps
        inside = keeps is Keeps.TOKENS and _index_of(tree, module) is None
        module = tree.ends[module] if inside else module + 1


def _keeps(tree: ModuleTree, module: int) -> Keeps | None:
    names = {tree.names[child] for child in tree.children(module)}
    names.update(tree.tensor_names[tensor] for tensor in tree.own_tensors(module))
    if names & _ONLY_CODE_TELLS:
        return None
    if names & _STATES:
        inner = {tree.tensor_names[tensor] for tensor in tree.tensors(module)}
        return Keeps.STATE if inner & DECAYS else None
    if tree.names[module] == _SHORT_CONVOLUTION in names:
        return Keeps.STATE
    if tree.names[module] == _INDEX and "wk" in names:
        return Keeps.KEYS
    attends = names & (FUSED | PAIRED) or (names & KEYS and (names & VALUES or "q_proj" in names))
    if not attends or any("conv" in tree.names[inner] for inner in range(module, tree.ends[module])):
        return None
    return Keeps.READ if _CROSS.search(tree.paths[module]) else Keeps.TOKENS


def _index_of(tree: ModuleTree, module: int) -> int | None:
    return next((child for child in tree.children(module) if tree.names[child] == _INDEX), None)

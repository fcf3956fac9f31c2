"""What a forward needs beside weights, by the shapes of the weights and a configuration: an upper estimate.

For plans without a trace. Of each layer the widest of its parts counts, beside what runs past it: a part
holds the results of all its matrices, and what is made of the widest where positions are turned, functions
applied, attention scores kept, tokens sent to experts, or a state carried from token to token.
``benchmarks/needs_of_configs.py`` compares it with the traced forward of every type.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Final

from ...ir import Demand, ModuleTree
from ...ir.purposes import ACTIVATIONS, LOGITS
from .cache_sites import DECAYS, FUSED, KEYS, PAIRED
from .config_numbers import ATTENTION_HEADS, HIDDEN, STATE_SIZES, first_told, number_width, text_config
from .config_work import TABLE, chosen_experts
from .known_classes import attends_eagerly

_FLOAT32: Final = 4
HEADS: Final = ("lm_head", "embed_out", "output")
_PAST: Final = 4
"""How often the hidden state is there beside a part: as it came, as it is added to, and its norms."""
_TURNED: Final = 6
"""How often the widest result of an attention is made anew where positions are turned in float32."""
_INTERLEAVED: Final = {"cohere": 12, "cohere2": 12}
"""Types that turn pairs of neighbours, which takes them apart and together again."""
_LATENT: Final = 3
_FUNCTION_NAMES: Final = (
    "hidden_act",
    "hidden_activation",
    "activation_function",
    "mlp_hidden_act",
    "dense_act_fn",
)
_FUNCTIONS: Final = {"silu": 1, "gelu": 1, "relu": 1, "gelu_pytorch_tanh": 1, "relu2": 2, "xielu": 6}
"""How often the argument of a function is there while it is computed; of any other:"""
_ANY_FUNCTION: Final = 4
_SCORES: Final = 2 * _FLOAT32
"""Bytes of a score in float32 before and behind the softmax; as it is made it is there three times."""
_SENT: Final = 2
"""How often what experts return is there in the model's dtype, and in float32 where it is weighed."""
_SCANS: Final = 7
"""How often the state of every token is there while a recurrence is computed in chunks, without a kernel."""
_SCAN: Final = 3
"""The same where it is computed token by token, with a matrix of decays."""
_CHUNK: Final = ("chunk_size", "mamba_chunk_size")


@dataclass(frozen=True, slots=True)
class _Sizes:
    """What a configuration says of a forward over so many tokens."""

    tokens: int
    width: int
    chosen: int
    hidden: int | None
    heads: int
    """Of attentions that keep all scores; 0 where none does."""
    index_heads: int
    """Of those that choose what the others look at."""
    turned: int
    latent: int
    """How often the widest result is there again where keys are made of latents; 0 where they are not."""
    function: int
    state: int
    chunk: int


def activation_demands(
    config: Mapping[str, Any], tree: ModuleTree, tokens: int, rows: int, *, copies: int = 1
) -> tuple[Demand, ...]:
    """Return what each layer, the table and the head need while they run.

    Args:
        config: the configuration, as read.
        tree: the model.
        tokens: how many are read at once, all sequences together.
        rows: of how many the scores are made.
        copies: how often these are there in float32.

    """
    sizes, layers = _sizes(config, tree, tokens), tuple(_layers(tree))
    inside = {module for layer in layers for module in range(layer, tree.ends[layer])}
    needs = ((tree.paths[layer], ACTIVATIONS, _layer(tree, layer, sizes)) for layer in layers)
    ends = _ends(tree, inside, sizes, rows * (sizes.width + copies * _FLOAT32))
    return tuple(Demand(nbytes, path, why, added=True) for path, why, nbytes in (*needs, *ends) if nbytes)


def _ends(
    tree: ModuleTree, inside: Container[int], sizes: _Sizes, scores: int
) -> Iterator[tuple[str, str, int]]:
    """Yield the needs of tables, norms and heads outside of layers; ``scores`` are the bytes of each word."""
    for module, path in enumerate(tree.paths):
        shape = next((tree.shapes[tensor] for tensor in tree.own_tensors(module)), ())
        if module in inside or not shape:
            continue
        if shape == (sizes.hidden,):
            yield path, ACTIVATIONS, sizes.tokens * shape[0] * _normed(sizes)
        elif TABLE.search(path) and len(shape) == 2:
            yield path, ACTIVATIONS, sizes.tokens * shape[1] * sizes.width
        elif tree.names[module] in HEADS and len(shape) == 2:
            yield path, LOGITS, shape[0] * scores + 2 * sizes.tokens * shape[1] * sizes.width


def _sizes(config: Mapping[str, Any], tree: ModuleTree, tokens: int) -> _Sizes:
    text = text_config(config)
    kind, width = str(text.get("model_type")), number_width(config, tree)
    one_head = text.get("multi_query") is True
    function = next((text[name] for name in _FUNCTION_NAMES if isinstance(text.get(name), str)), None)
    return _Sizes(
        tokens,
        width,
        chosen_experts(config),
        first_told(text, HIDDEN),
        (first_told(text, ATTENTION_HEADS) or 0) if attends_eagerly(kind) or one_head else 0,
        first_told(text, ("index_n_heads",)) or 0,
        _INTERLEAVED.get(kind, _TURNED),
        _LATENT if first_told(text, ("kv_lora_rank",)) else 0,
        _FUNCTIONS.get(function or "", _ANY_FUNCTION),
        first_told(text, STATE_SIZES) or 0,
        first_told(text, _CHUNK) or 0,
    )


def _layers(tree: ModuleTree) -> Iterator[int]:
    """Yield the outermost modules of numbered lists."""
    module = 0
    while module < len(tree):
        if tree.names[module].isdecimal() and len(tree.tensors(module)):
            yield module
            module = tree.ends[module]
        else:
            module += 1


def _layer(tree: ModuleTree, layer: int, sizes: _Sizes) -> int:
    """Return the bytes of a layer at its widest, the hidden state that runs past it included."""
    normed = max((tree.shapes[t][0] for t in tree.tensors(layer) if len(tree.shapes[t]) == 1), default=0)
    hidden = sizes.hidden or normed
    parts = [_part(tree, child, hidden, sizes) for child in tree.children(layer)]
    past = _PAST * hidden * sizes.tokens * sizes.width
    return past + max(parts, default=0) if parts else 0


def _part(tree: ModuleTree, part: int, hidden: int, sizes: _Sizes) -> int:
    """Return the bytes of one part of a layer at its widest."""
    plain = list(_results(tree, part, sizes.chosen))
    widest = max(plain, default=0)
    names = {tree.names[module] for module in range(part, tree.ends[part])}
    if names & (KEYS | FUSED | PAIRED):
        alone = hidden if names & FUSED and hidden else widest
        again, more = max(sizes.turned * alone, sizes.latent * widest), _scores(sizes)
    else:
        again, more = sizes.function * widest, 0
    sent = sizes.chosen * hidden * _SENT * (sizes.width + _FLOAT32) if _has_experts(tree, part) else 0
    normed = max(_norms(tree, part), default=0)
    elements = sum(plain) + again
    if DECAYS & {tree.tensor_names[tensor] for tensor in tree.tensors(part)}:
        more += _scan(tree, part, widest, sizes)
    return sizes.tokens * max(
        elements * sizes.width + more, 2 * hidden * sizes.width + sent, normed * _normed(sizes)
    )


def _norms(tree: ModuleTree, part: int) -> Iterator[int]:
    """Yield the widths of the norms of a part: modules that hold rows and no matrix."""
    for module in range(part, tree.ends[part]):
        shapes = [tree.shapes[tensor] for tensor in tree.own_tensors(module)]
        if shapes and all(len(shape) == 1 for shape in shapes):
            yield shapes[0][0]


def _normed(sizes: _Sizes) -> int:
    """Return the bytes of a number that is normed: as it came and goes, and in float32 between."""
    return 2 * sizes.width + 3 * _FLOAT32


def _scores(sizes: _Sizes) -> int:
    """Return the bytes of a token's scores, of every head for every token, and their mask."""
    kept = sizes.heads * (3 * sizes.width + _SCORES) + 2 * _FLOAT32 * bool(sizes.heads)
    return sizes.tokens * (kept + sizes.index_heads * _SCORES)


def _scan(tree: ModuleTree, part: int, widest: int, sizes: _Sizes) -> int:
    """Return a token's bytes of a recurrence: its states, or of every head what a chunk sees."""
    shapes = [tree.shapes[t] for t in tree.tensors(part) if tree.tensor_names[t] in DECAYS]
    matrix = next((shape for shape in shapes if len(shape) == 2), None)
    heads = max((shape[0] for shape in shapes), default=0)
    seen = _SCANS * heads * max(sizes.state, sizes.chunk) if matrix is None else _SCAN * prod(matrix)
    return _FLOAT32 * (seen + 4 * widest)


def _has_experts(tree: ModuleTree, part: int) -> bool:
    """Say whether a part sends tokens to some of its experts: they are one tensor, or a numbered list."""
    stacked = any(len(tree.shapes[tensor]) == 3 for tensor in tree.tensors(part))
    return stacked or any(tree.names[module].isdecimal() for module in range(part + 1, tree.ends[part]))


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

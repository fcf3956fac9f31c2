"""What a forward needs beside weights, by the shapes of the weights and a configuration: an upper estimate.

For plans without a trace. Of each layer the widest of its parts counts, beside what runs past it: a part
holds the results of all its matrices, and what is made of the widest where positions are turned, functions
applied, attention scores kept, tokens sent to experts, or a state carried from token to token. A tower that
sees reads as many patches as its configuration says. Latent attention needs more on the host, whose kernels
are not fused for it.
``benchmarks/needs_of_configs.py`` compares it with the traced forward of every type.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import replace
from math import ceil, prod
from typing import Any, Final

from ...ir import Demand, ModuleTree
from ...ir.purposes import ACTIVATIONS, LOGITS, ON_HOST
from .cache_sites import DECAYS, FUSED, KEYS, PAIRED
from .config_numbers import first_number, text_config
from .config_work import ROUTED, TABLE
from .forward_sizes import ForwardSizes, forward_sizes, heard_sizes, seen_sizes
from .known_classes import scores_all
from .local_attention import padded

_FLOAT32: Final = 4
SAMPLED: Final = 13
"""How often the last scores are there in float32 while a card sorts them for a sampler (top-p), with what is
left of the token before."""
SAMPLED_TOGETHER: Final = 16
"""The same of several rows, which are sorted by their numbers and by their rows."""
HEADS: Final = ("lm_head", "embed_out", "output", "proj_out", "output_projection")
ATTENDS: Final = KEYS | FUSED | PAIRED | {"project_k"}
_GATED: Final = "rg_lru"
"""A recurrence of a state as wide as its input, token by token."""
RECURS: Final = frozenset({_GATED, "mlstm_layer", "receptance", "conv"})
"""Parts by which other layers pass on what came before."""
_CAPPED: Final = 3
"""How often scores are there in float32 while they are capped."""
_PAST: Final = 5
"""How often the hidden state is there beside a part: as it came, as it is added to, its norms, what of the
forward around the layers is still there."""
_MASK: Final = 4
"""Bytes of each pair of tokens where a window hides some: yes or no, and the numbers it is turned into."""
_PADDING: Final = 2
"""The same where padding alone is hidden."""
_UNFUSED: Final = 3
"""How often scores are there in float32 where the host attends to latents step by step."""
_SIGHT: Final = re.compile(r"(?:^|[._])(?:vision|visual|vit|image)")
_HEARING: Final = re.compile(r"(?:^|[._])(?:audio|speech|sound|encoder)")
_DECODES: Final = re.compile(r"(?:^|[.])decoder[.]")
_SCORES: Final = 2 * _FLOAT32
"""Bytes of a score in float32 before and behind the softmax; as it is made it is there three times,
with what is added for its position four."""
_HANDED_ON: Final = 2
"""How often scores are there behind an attention that keeps them: as returned, and as each head's mask."""
_LOOKED_UP: Final = 7
"""How often what a head learned of distances is there, token by token."""
_BUCKETS: Final = 80
"""Bytes of a pair of positions while their distances are put into buckets."""
_NUMBERS: Final = 6 * 8
"""Bytes of what stands for a token before it is looked up: its number, its kind, its position, its mask."""
_SOFT_CAPS: Final = ("final_logit_softcapping", "output_logit_soft_cap")
_SENT: Final = 2
"""How often what experts return is there in the model's dtype, and in float32 where it is weighed."""
_SCANS: Final = 7
"""How often the state of every token is there while a recurrence is computed at once, without a kernel."""
_INNER, _INNER_IN_CHUNKS = 6, 4
"""How often the widest result is there in float32 beside that."""
_SCAN: Final = 3
"""The same where it is computed token by token, with a matrix of decays."""
_KEPT: Final = 6
"""How often what a head keeps of a whole text is there, key by value."""
_USUAL_CHUNK: Final = 64
_STEP: Final = "dt_bias"
"""A number for each head of a recurrence, or for each channel where channels decay apart."""
_DECAYS_OF_PAIRS: Final = 3
"""How often every pair of tokens in a chunk has a decay for each channel, where channels decay apart."""


def activation_demands(
    config: Mapping[str, Any],
    tree: ModuleTree,
    tokens: int,
    rows: int,
    *,
    copies: int | None = None,
    sequences: int = 1,
) -> tuple[Demand, ...]:
    """Return what each layer, the table and the head need while they run.

    Args:
        config: the configuration, as read.
        tree: the model.
        tokens: how many are read at once, all sequences together.
        rows: of how many the scores are asked for.
        copies: how often these are there in float32; None where they are sampled from.
        sequences: how many there are.

    """
    if copies is None:
        copies = SAMPLED_TOGETHER if rows > 1 else SAMPLED
    sizes, layers = forward_sizes(config, tree, tokens, sequences), tuple(_layers(tree))
    seen = seen_sizes(config, sizes, sequences)
    inside = {module for layer in layers for module in range(layer, tree.ends[layer])}
    needs = list[tuple[str, str, int]]()
    heard = heard_sizes(config, sizes, sequences)
    decoding = _decoding(sizes) if rows == tokens else sizes  # who generates has one token there
    for layer in layers:
        path = tree.paths[layer]
        of = decoding if _DECODES.search(path) else heard if _HEARING.search(path) else sizes
        of = seen if _SIGHT.search(path) else of
        nbytes = _layer(tree, layer, of)
        needs.append((path, ACTIVATIONS, nbytes))
        unfused = sizes.tokens * sizes.length * sizes.unfused_heads * _UNFUSED * _FLOAT32
        needs.append((path, ON_HOST, nbytes + unfused if unfused else 0))
    made = sizes.tokens if scores_all(config) and not config.get("is_encoder_decoder") else rows
    scores = made * sizes.width + rows * copies * _FLOAT32
    if first_number(text_config(config), _SOFT_CAPS):
        scores = max(scores, made * _CAPPED * _FLOAT32)
    ends = _ends(tree, inside, sizes, scores)
    return tuple(Demand(nbytes, path, why, added=True) for path, why, nbytes in (*needs, *ends) if nbytes)


def _decoding(sizes: ForwardSizes) -> ForwardSizes:
    """Return the sizes of a decoder that reads a whole text: it keeps no blocks of it."""
    heads, biased = max(sizes.heads, sizes.foretelling), max(sizes.biased_heads, sizes.foretelling)
    return replace(sizes, scored=sizes.length, heads=heads, biased_heads=biased)


def _ends(
    tree: ModuleTree, inside: Container[int], sizes: ForwardSizes, scores: int
) -> Iterator[tuple[str, str, int]]:
    """Yield the needs of tables, norms and heads outside of layers; ``scores`` are the bytes of each word."""
    outside = [
        (module, next(tree.shapes[tensor] for tensor in tree.own_tensors(module)))
        for module in range(len(tree))
        if module not in inside and len(tree.own_tensors(module))
    ]
    named = any(tree.names[module] in HEADS and len(shape) == 2 for module, shape in outside)
    for module, shape in outside:
        path = tree.paths[module]
        scores_words = tree.names[module] in HEADS if named else shape[0] == sizes.words
        if shape == (sizes.hidden,):
            yield path, ACTIVATIONS, sizes.tokens * shape[0] * _normed(sizes)
        elif TABLE.search(path) and len(shape) == 2:
            looked_up = 2 * sum(_beside(tree, module)) * sizes.width
            yield path, ACTIVATIONS, sizes.tokens * (looked_up + _NUMBERS) + sizes.buckets * _BUCKETS
        elif scores_words and len(shape) == 2:
            yield path, LOGITS, shape[0] * scores + 2 * sizes.tokens * shape[1] * sizes.width


def _beside(tree: ModuleTree, table: int) -> Iterator[int]:
    """Yield the widths of a table and of those beside it: what is looked up in them is put together."""
    above = tree.parents[table]
    for module in tree.children(above) if above >= 0 else (table,):
        yield from (tree.shapes[t][1] for t in tree.own_tensors(module) if _is_table(tree, t))


def _is_table(tree: ModuleTree, tensor: int) -> bool:
    return len(tree.shapes[tensor]) == 2 and tree.tensor_names[tensor] == "weight"


def _layers(tree: ModuleTree) -> Iterator[int]:
    """Yield the outermost modules of numbered lists."""
    module = 0
    while module < len(tree):
        if tree.names[module].isdecimal() and len(tree.tensors(module)):
            yield module
            module = tree.ends[module]
        else:
            module += 1


def _layer(tree: ModuleTree, layer: int, sizes: ForwardSizes) -> int:
    """Return the bytes of a layer at its widest, the hidden state that runs past it included."""
    normed = max((tree.shapes[t][0] for t in tree.tensors(layer) if len(tree.shapes[t]) == 1), default=0)
    hidden = sizes.hidden or normed
    parts = [_part(tree, child, hidden, sizes) for child in tree.children(layer)]
    # Matrices that are no module together are one part all the same: what the first makes, the second reads.
    alone = [tree.shapes[t][0] for t in _matrices(tree, layer)]
    parts.append(sizes.tokens * sizes.width * (sum(alone) + sizes.function * max(alone, default=0)))
    past = sizes.tokens * (_PAST * hidden + sizes.beside) * sizes.width
    past += sizes.tokens * sizes.length * (_MASK if sizes.hides else _PADDING * sizes.padded)
    handed = _HANDED_ON * sizes.tokens * sizes.scored * sizes.heads * sizes.width
    attends = [not ATTENDS.isdisjoint(tree.names[each : tree.ends[each]]) for each in tree.children(layer)]
    if any(attends):  # behind it
        parts = [each if own else each + handed for each, own in zip(parts, (*attends, False), strict=True)]
    return past + max(parts, default=0) if parts else 0


def _matrices(tree: ModuleTree, layer: int) -> Iterator[int]:
    """Yield the matrices that are children of a layer themselves."""
    for child in tree.children(layer):
        if not tree.children(child):
            yield from (tensor for tensor in tree.own_tensors(child) if len(tree.shapes[tensor]) == 2)


def _part(tree: ModuleTree, part: int, hidden: int, sizes: ForwardSizes) -> int:
    """Return the bytes of one part of a layer at its widest."""
    plain = list(_results(tree, part, sizes))
    widest = max(plain, default=0)
    names = {tree.names[module] for module in range(part, tree.ends[part])}
    if names & ATTENDS:
        alone = hidden if names & FUSED and hidden else widest
        again, more = max(sizes.turned * alone, sizes.latent * widest), _scores(sizes)
    else:
        again, more = sizes.function * widest, 0
    sent = sizes.chosen * hidden * _SENT * (sizes.width + _FLOAT32) if _has_experts(tree, part) else 0
    normed = max(_norms(tree, part), default=0)
    elements = sum(plain) + again
    if DECAYS & {tree.tensor_names[tensor] for tensor in tree.tensors(part)}:
        more += _scan(tree, part, widest, sizes)
    if _GATED in names:
        more += 5 * _FLOAT32 * widest
    return sizes.tokens * max(
        elements * sizes.width + more, 2 * hidden * sizes.width + sent, normed * _normed(sizes)
    )


def _norms(tree: ModuleTree, part: int) -> Iterator[int]:
    """Yield the widths of the norms of a part: modules that hold rows and no matrix."""
    for module in range(part, tree.ends[part]):
        shapes = [tree.shapes[tensor] for tensor in tree.own_tensors(module)]
        if shapes and all(len(shape) == 1 for shape in shapes):
            yield shapes[0][0]


def _normed(sizes: ForwardSizes) -> int:
    """Return the bytes of a number that is normed: as it came and goes, and in float32 between."""
    return 2 * sizes.width + 3 * _FLOAT32


def _scores(sizes: ForwardSizes) -> int:
    """Return the bytes of a token's scores, of every head for every token, and their mask."""
    mask = 2 * _FLOAT32 + sizes.width * sizes.padded
    kept = _biases(sizes) + ceil(sizes.heads * sizes.score) + mask * bool(sizes.heads)
    kept = sizes.scored * kept + sizes.length * sizes.index_heads * _SCORES
    return kept + sizes.distances * sizes.heads * _LOOKED_UP * sizes.width


def _biases(sizes: ForwardSizes) -> int:
    """Return the bytes of what is added to a token's scores for positions, by all heads, or of buckets."""
    buckets = _BUCKETS * sizes.length // sizes.tokens
    return max(ceil(sizes.biased_heads * sizes.bias), buckets) if sizes.biased_heads else 0


def _scan(tree: ModuleTree, part: int, widest: int, sizes: ForwardSizes) -> int:
    """Return a token's bytes of a recurrence: its states, or of every head what a chunk sees."""
    shapes = [tree.shapes[t] for t in tree.tensors(part) if tree.tensor_names[t] in DECAYS]
    matrix = next((shape for shape in shapes if len(shape) == 2), None)
    heads = max(map(prod, shapes), default=0)
    channels = max(
        (prod(tree.shapes[t]) for t in tree.tensors(part) if tree.tensor_names[t] == _STEP), default=0
    )
    seen = heads * _scanned(sizes) if matrix is None else _SCAN * prod(matrix)
    if channels > heads and matrix is None:
        seen += _DECAYS_OF_PAIRS * channels * (sizes.chunk or _USUAL_CHUNK)
    in_chunks = matrix is None and sizes.chunk and sizes.state
    read = padded(sizes.length, sizes.chunk or (_USUAL_CHUNK if sizes.kept else 1))
    inner = (_INNER_IN_CHUNKS if in_chunks else _INNER) * widest
    return _FLOAT32 * (_KEPT * heads * sizes.kept + (seen + inner) * read) // sizes.length


def _scanned(sizes: ForwardSizes) -> int:
    """Return a head's numbers of a token: pairs of its chunk and states, weighed as one or the other."""
    pairs, states = sizes.chunk, sizes.state
    return max(3 * (pairs + states), 2 * pairs + 5 * states) if pairs else _SCANS * states


def _has_experts(tree: ModuleTree, part: int) -> bool:
    """Say whether a part sends tokens to some of its experts: they are one tensor, or a numbered list."""
    stacked = any(len(tree.shapes[tensor]) == 3 for tensor in tree.tensors(part))
    return stacked or any(tree.names[module].isdecimal() for module in range(part + 1, tree.ends[part]))


def _results(tree: ModuleTree, part: int, sizes: ForwardSizes) -> Iterator[int]:
    """Yield the widths of the results of a part's matrices; of experts those that a token takes.

    They are a list, or one tensor in which all stand behind each other or below each other.
    """
    module, stacked = part, any(ROUTED.search(tree.names[each]) for each in range(part, tree.ends[part]))
    while module < tree.ends[part]:
        if tree.names[module].isdecimal() and module != part:
            number = int(tree.names[module])
            if number >= sizes.chosen:
                module = tree.ends[module]
                continue
        for tensor in tree.own_tensors(module):
            shape = tree.shapes[tensor]
            if len(shape) == 2 and stacked and tree.tensor_names[tensor] != "weight":
                yield sizes.chosen * shape[0] // sizes.experts
            elif len(shape) == 2:
                yield shape[0]
            elif len(shape) == 3:  # of all experts at once: the rows they are given count too
                yield sizes.chosen * sum(shape[1:])
        module += 1

"""The sizes of a forward, as a configuration tells them: of its text, and of a tower that sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from math import ceil
from typing import Any, Final

from ...ir import ModuleTree
from .config_numbers import (
    ATTENTION_HEADS,
    HIDDEN,
    LAYERS,
    QUERY_HEADS,
    STATE_SIZES,
    WINDOWS,
    first_number,
    first_told,
    number_width,
    text_config,
    type_named,
)
from .config_work import chosen_experts
from .known_classes import is_fused, score_nbytes
from .local_attention import scores_kept

_WITH_PICTURE: Final = 9 / 8
"""How many tokens a prompt has for each that was asked for, where the model also sees or hears."""
_ALL_AT_ONCE: Final = frozenset({"llama4", "llama4_text"})
"""Types whose experts each compute every token."""
_TURNED: Final = 6
"""How often the widest result of an attention is made anew where positions are turned."""
_INTERLEAVED: Final = frozenset({"cohere", "cohere2"})
"""Types that turn pairs of neighbours in float32, which takes them apart and together again: as often."""
_ROTARY: Final = ("rope", "rotary")
_PLACES: Final = frozenset({"embed_positions", "position_embeddings", "position_embedding", "wpe"})
"""Tables of positions, which are added: where nothing is said of turning, nothing is turned."""
_PLACED: Final = 1
"""The same where they are not: what the heads return is put together."""
_FLOAT32: Final = 4
_SOFTMAX: Final = 2 * _FLOAT32
_STEPS: Final = 15
"""Bytes of a score where a kernel does not take what is added to it (before transformers 5.20)."""
_FOR_ALL_TEXTS: Final = 2.5
_STEP_BY_STEP_BIASED: Final = 4
"""How often it is there at least."""
_WHOLE_ROW: Final = 8
"""Numbers of a row that a card's kernel reads at once: a mask whose last are fewer is there once more."""
_ALL_LOOKED_AT: Final = ("keep_window_size",)
"""Up to how many tokens nothing is chosen: each head's mask is there, and which of it hides."""
_LATENT: Final = 3
_FUNCTION_NAMES: Final = (
    "activation",
    "afn",
    "ffn_act_fn",
    "hidden_act",
    "hidden_activation",
    "activation_function",
    "mlp_hidden_act",
    "dense_act_fn",
)
_FUNCTIONS: Final = {"silu": 1, "gelu": 1, "relu": 1, "gelu_pytorch_tanh": 1, "relu2": 2, "xielu": 6}
"""How often the argument of a function is there while it is computed; of any other:"""
_ANY_FUNCTION: Final = 4
_STEP_BY_STEP: Final = 6
"""Of those that hold on to their argument and to every step."""
_OWN_FUNCTIONS: Final = frozenset({"openai-gpt"})
_MASKED: Final = 2_048
"""Up to how many tokens one text is padded as well; a mask of all pairs is too much to keep for a chance."""
_GATE_CAPS: Final = ("mlp_gate_softcap", "swiglu_limit")
_KEYS_KEPT: Final = ("linear_key_head_dim", "linear_head_dim")
_VALUES_KEPT: Final = ("linear_value_head_dim", "linear_head_dim")
_PICTURE_TOKENS: Final = ("mm_tokens_per_image", "image_seq_length", "image_seq_len")
_MERGED: Final = ("spatial_merge_size", "scale_factor")
"""How many patches in each direction become one token."""
_HEARD, _BANDS = ("max_source_positions",), ("num_mel_bins",)
_POSITIONS: Final = ("max_position_embeddings",)
_CHUNK: Final = ("chunk_size", "mamba_chunk_size")


@dataclass(frozen=True, slots=True)
class ForwardSizes:
    """What a configuration says of a forward over so many tokens."""

    tokens: int
    length: int
    """Of one sequence."""
    width: int
    chosen: int
    experts: int
    """Of which those are chosen; 1 where that is not told."""
    hidden: int | None
    heads: int
    """Of attentions that keep scores; 0 where none does."""
    score: float
    """Bytes of a score that each of them keeps."""
    unfused_heads: int
    """Of those that keep them on the host alone."""
    biased_heads: int
    """Of those that add a number for each pair of tokens."""
    index_heads: int
    """Of those that choose what the others look at."""
    turned: int
    latent: int
    """How often the widest result is there again where keys are made of latents; 0 where they are not."""
    function: int
    state: int
    chunk: int
    beside: int
    """Numbers of a token that all layers read of."""
    hides: bool
    """Whether a window hides tokens."""
    padded: bool
    """Whether there is a mask that says what of each text is padding."""
    distances: int
    """Of how many distances each head learns a number that it looks up for each token."""
    scored: int
    """Of how many tokens each keeps the scores."""
    buckets: int
    """Pairs of positions whose distances are worked out at once, whatever is read."""
    words: int
    """Of the vocabulary."""
    kept: int
    """What a head of a recurrence keeps of a whole text, keys by values; 0 where it is no matrix."""
    bias: float
    """Bytes of a score to which those of them add it, scores that are there for that included."""
    foretelling: int
    """Heads of a decoder that foretells several tokens, once for each and for the text as it is; or 0."""


def forward_sizes(config: Mapping[str, Any], tree: ModuleTree, tokens: int, sequences: int) -> ForwardSizes:
    """Return the sizes of a forward over so many tokens, of so many sequences."""
    text = text_config(config)
    pictured = sequences * seen_tokens(config)
    beside = bool(pictured) and not any("image_token" in name for name in config)
    tokens = max(tokens if text is config else ceil(tokens * _WITH_PICTURE), pictured)
    tokens = max(tokens, 0 if text is config else sequences * _heard_tokens(config))
    tokens += pictured * beside + sequences * _prompted(text)
    heads, latents = first_told(text, QUERY_HEADS) or 0, first_told(text, ("kv_lora_rank",))
    layers, width = first_told(text, LAYERS) or 1, number_width(config, tree)
    hides = first_told(text, WINDOWS) is not None and text.get("use_sliding_window") is not False
    biased = first_told(text, ("relative_attention_num_buckets",))
    length = -(-tokens // max(1, sequences))
    local, foretold = scores_kept(text, length), first_told(text, ("ngram",))
    score = 0.0 if biased else score_nbytes(config, text, width)
    score = 4 * width + (_SOFTMAX if width < _FLOAT32 else width) if local else score
    if length <= (first_told(text, _ALL_LOOKED_AT) or 0):
        score = width + 1 + width * bool(length % _WHOLE_ROW)
    return ForwardSizes(
        tokens,
        length,
        width,
        chosen_experts(config, at_once=type_named(text) in _ALL_AT_ONCE),
        chosen_experts(config, at_once=True),
        first_told(text, HIDDEN),
        heads if score else 0,
        score,
        heads if latents else 0,
        heads if biased else 0,
        first_told(text, ("index_n_heads",)) or 0,
        _turned(text, tree, width) + hides,  # layers with a window have tables of positions of their own
        _LATENT if latents else 0,
        _function(text),
        first_told(text, STATE_SIZES) or 0,
        first_told(text, _CHUNK) or 0,
        2 * layers * (first_told(text, ("hidden_size_per_layer_input",)) or 0),
        hides,
        sequences > 1 or length <= _MASKED,
        first_told(text, ("rel_extent",)) or 0,
        length if local is None else local,
        (first_told(text, _POSITIONS) or 0) ** 2 if foretold else 0,
        first_told(text, ("vocab_size",)) or 0,
        (first_told(text, _KEYS_KEPT) or 0) * (first_told(text, _VALUES_KEPT) or 0),
        _biased_score(width, length, max(1, sequences), fused=is_fused(config, text), local=bool(local)),
        heads * (1 + foretold) if foretold else 0,
    )


def _biased_score(width: int, length: int, texts: int, *, fused: bool | None, local: bool) -> float:
    """Return the bytes of a score to which a number is added for its distance.

    That number is there for all texts, as it was made and as each layer is handed it, and once more with a
    mask. A fused kernel takes both as one, as it lies for the kernel, and on cards once more where rows are
    not whole; without one there are scores.
    """
    added = width * (1 + _FOR_ALL_TEXTS / texts)
    if local or fused is False:  # scores of blocks are counted beside, and softmax once more
        return added + (_SOFTMAX if width < _FLOAT32 else width)
    if fused and _fuses_biases():
        return added + width * (1 + bool(length % _WHOLE_ROW))
    return max(_STEP_BY_STEP_BIASED * width, _STEPS)


@cache
def _fuses_biases() -> bool:
    """Say whether the installed transformers hands biases to a fused kernel, as it does from 5.20 on."""
    try:
        major, minor = map(int, version("transformers").split(".")[:2])
    except (PackageNotFoundError, ValueError):
        return False
    return (major, minor) >= (5, 20)


def _prompted(text: Mapping[str, Any]) -> int:
    """Return how many learned tokens come before each text."""
    return 0 if text.get("use_prompt") is False else first_told(text, ("prompt_length",)) or 0


def _turned(text: Mapping[str, Any], tree: ModuleTree, width: int) -> int:
    """Return how often the widest result of an attention is made anew where positions are turned."""
    if type_named(text) in _INTERLEAVED:
        return _TURNED * _FLOAT32 // width
    said = any(word in name for name in text for word in _ROTARY)
    return _TURNED if said or _PLACES.isdisjoint(tree.names) else _PLACED


def seen_tokens(config: Mapping[str, Any]) -> int:
    """Return how many tokens a picture has in a text, its two marks included; 0 where nothing tells."""
    if (told := first_told(config, _PICTURE_TOKENS)) is not None:
        return told + 2
    seen = config.get("vision_config")
    seen = seen if isinstance(seen, Mapping) else config
    merged = first_told(seen, _MERGED) or first_told(config, _MERGED) or 1
    return patches // merged**2 + 2 if (patches := _patches(seen)) else 0


def _patches(seen: Mapping[str, Any]) -> int:
    """Return into how many patches a tower cuts a picture."""
    image, patch = first_told(seen, ("image_size",)), first_told(seen, ("patch_size",))
    return (image // patch) ** 2 if image and patch else 0


def seen_sizes(config: Mapping[str, Any], sizes: ForwardSizes, pictures: int) -> ForwardSizes:
    """Return the sizes of a tower that sees: a picture each, of which all scores of patches may be kept."""
    told = config.get("vision_config")
    if not isinstance(told, Mapping):
        return sizes
    tower = _tower(told, sizes, pictures, _patches(told))
    heads = (first_told(told, ATTENTION_HEADS) or 0) if told.get("use_rel_pos") is True else 0
    return replace(tower, heads=heads, score=4 * sizes.width + _SOFTMAX, padded=False)


def heard_sizes(config: Mapping[str, Any], sizes: ForwardSizes, sounds: int) -> ForwardSizes:
    """Return the sizes of a part that hears: a sound each, as long as any it was made for."""
    told = heard_config(config)
    if told is None:
        return sizes
    tower = _tower(told, sizes, sounds, first_told(told, _HEARD) or 0)
    return replace(tower, heads=0, turned=_PLACED)


def _tower(told: Mapping[str, Any], sizes: ForwardSizes, count: int, steps: int) -> ForwardSizes:
    """Return the sizes of a part with a configuration of its own, which reads so many things of steps."""
    length = max(sizes.length, steps)
    return replace(
        sizes,
        tokens=max(sizes.tokens, count * steps),
        length=length,
        scored=length,
        buckets=0,
        hidden=first_told(told, HIDDEN) or sizes.hidden,
        function=_function(told),
        latent=0,
        unfused_heads=0,
        biased_heads=0,
    )


def _heard_tokens(config: Mapping[str, Any]) -> int:
    """Return how many tokens a sound has in a text, of which every two steps make one at most."""
    told = heard_config(config)
    return 0 if told is None else (first_told(told, _HEARD) or 0) // 2


def heard_tokens(config: Mapping[str, Any]) -> int | None:
    """Return how many steps of a sound a decoder attends to, whatever is heard; None where it reads text."""
    return first_told(config, _HEARD) if heard_config(config) is config else None


def heard_config(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the configuration of the part that reads the bands of a sound, which is always as long."""
    parts = (config.get("audio_config"), config)
    told = (each for each in parts if isinstance(each, Mapping) and first_told(each, _HEARD))
    return next((each for each in told if first_told(each, _BANDS)), None)


def _function(config: Mapping[str, Any]) -> int:
    """Return how often the argument of a configuration's function is there while it is computed."""
    if first_number(config, _GATE_CAPS):
        return _ANY_FUNCTION
    if type_named(config) in _OWN_FUNCTIONS:
        return _STEP_BY_STEP
    inner = config.get("ffn_config")
    parts = (config, inner if isinstance(inner, Mapping) else {})
    told = [part[name] for part in parts for name in _FUNCTION_NAMES if name in part]
    names = (each.get("name") if isinstance(each, Mapping) else each for each in told)
    return _FUNCTIONS.get(next((name for name in names if isinstance(name, str)), ""), _ANY_FUNCTION)

"""The sizes of a forward, as a configuration tells them: of its text, and of a tower that sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil
from typing import Any, Final

from ...ir import ModuleTree
from .config_numbers import (
    ATTENTION_HEADS,
    HIDDEN,
    LAYERS,
    STATE_SIZES,
    WINDOWS,
    first_number,
    first_told,
    number_width,
    text_config,
)
from .config_work import chosen_experts
from .known_classes import attends_eagerly
from .local_attention import scores_kept

_WITH_PICTURE: Final = 9 / 8
"""How many tokens a prompt has for each that was asked for, where the model also sees or hears."""
_ALL_AT_ONCE: Final = frozenset({"llama4", "llama4_text"})
"""Types whose experts each compute every token."""
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
_GATE_CAPS: Final = ("mlp_gate_softcap", "swiglu_limit")
_HEADS: Final = (*ATTENTION_HEADS, "num_decoder_attention_heads")
_KEYS_KEPT: Final = ("linear_key_head_dim", "linear_head_dim")
_VALUES_KEPT: Final = ("linear_value_head_dim", "linear_head_dim")
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
    hidden: int | None
    heads: int
    """Of attentions that keep all scores; 0 where none does."""
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
    scored: int
    """Of how many tokens each keeps the scores."""
    buckets: int
    """Pairs of positions whose distances are worked out at once, whatever is read."""
    words: int
    """Of the vocabulary."""
    kept: int
    """What a head of a recurrence keeps of a whole text, keys by values; 0 where it is no matrix."""
    foretelling: int
    """Heads of a decoder that foretells several tokens, once for each and for the text as it is; or 0."""


def forward_sizes(config: Mapping[str, Any], tree: ModuleTree, tokens: int, sequences: int) -> ForwardSizes:
    """Return the sizes of a forward over so many tokens, of so many sequences."""
    text = text_config(config)
    tokens = tokens if text is config else ceil(tokens * _WITH_PICTURE)
    tokens += sequences * (first_told(text, ("prompt_length",)) or 0)
    heads, latents = first_told(text, _HEADS) or 0, first_told(text, ("kv_lora_rank",))
    layers = first_told(text, LAYERS) or 1
    kind, width = str(text.get("model_type")), number_width(config, tree)
    one_head = text.get("multi_query") is True
    hides = first_told(text, WINDOWS) is not None and text.get("use_sliding_window") is not False
    biased = first_told(text, ("relative_attention_num_buckets",))
    length = -(-tokens // max(1, sequences))
    local, foretold = scores_kept(text, length), first_told(text, ("ngram",))
    return ForwardSizes(
        tokens,
        length,
        width,
        chosen_experts(config, at_once=kind in _ALL_AT_ONCE),
        first_told(text, HIDDEN),
        heads if attends_eagerly(kind) or one_head or local else 0,
        heads if latents else 0,
        heads if biased else 0,
        first_told(text, ("index_n_heads",)) or 0,
        _INTERLEAVED.get(kind, _TURNED + hides),  # layers with a window have tables of positions of their own
        _LATENT if latents else 0,
        _function(text),
        first_told(text, STATE_SIZES) or 0,
        first_told(text, _CHUNK) or 0,
        2 * layers * (first_told(text, ("hidden_size_per_layer_input",)) or 0),
        hides,
        length if local is None else local,
        (first_told(text, _POSITIONS) or 0) ** 2 if foretold else 0,
        first_told(text, ("vocab_size",)) or 0,
        (first_told(text, _KEYS_KEPT) or 0) * (first_told(text, _VALUES_KEPT) or 0),
        heads * (1 + foretold) if foretold else 0,
    )


def seen_sizes(config: Mapping[str, Any], sizes: ForwardSizes, pictures: int) -> ForwardSizes:
    """Return the sizes of a tower that sees: a picture each, of which all scores of patches may be kept."""
    told = config.get("vision_config")
    if not isinstance(told, Mapping):
        return sizes
    image, patch = first_told(told, ("image_size",)), first_told(told, ("patch_size",))
    patches = (image // patch) ** 2 if image and patch else 0
    return replace(
        sizes,
        tokens=max(sizes.tokens, pictures * patches),
        length=max(sizes.length, patches),
        scored=max(sizes.length, patches),
        buckets=0,
        heads=(first_told(told, ATTENTION_HEADS) or 0) if told.get("use_rel_pos") is True else 0,
        hidden=first_told(told, HIDDEN) or sizes.hidden,
        function=_function(told),
        latent=0,
        unfused_heads=0,
        biased_heads=0,
    )


def _function(config: Mapping[str, Any]) -> int:
    """Return how often the argument of a configuration's function is there while it is computed."""
    name = next((config[name] for name in _FUNCTION_NAMES if isinstance(config.get(name), str)), "")
    return _ANY_FUNCTION if first_number(config, _GATE_CAPS) else _FUNCTIONS.get(name, _ANY_FUNCTION)

"""What a configuration says of one layer: its kind, its window, how many heads of which size it has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from .config_numbers import ATTENTION_HEADS, HIDDEN, WINDOWS, Config, first_told, integer, type_named

_KV_HEADS: Final = ("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num")
_HEAD_SIZES: Final = ("head_dim", "d_kv", "attention_head_dim", "kv_channels")
_PATTERNS: Final = {
    "gemma2": 2, "gemma3": 6, "gpt_oss": 2, "gemma3_text": 6, "gemma3n_text": 5, "cohere2": 4,
    "llama4_text": 4,
}  # fmt: skip
"""Every how many layers one sees all tokens, for configurations that leave it to the code."""
PER_LAYER: Final = "per_layer_config"
"""What single layers have instead of what all have, by their numbers."""
_TWICE: Final = frozenset({"mimo_v2_flash"})
"""Types whose windows have twice the heads of keys, which their code says."""
VALUE_DIM, WINDOW_HEAD_DIM, WINDOW_VALUE_DIM = "value_head_dim", "swa_head_dim", "swa_value_head_dim"
"""What a GGUF file's numbers are called here where values are narrower than keys, and those of windows."""
_OF_WINDOWS: Final = {
    "kv_heads": "swa_num_key_value_heads",
    "head": WINDOW_HEAD_DIM,
    "value": WINDOW_VALUE_DIM,
}
_OF_ALL: Final = {"kv_heads": "num_global_key_value_heads", "head": "global_head_dim"}
"""What layers that see a window, and those that see all tokens, have instead of what the others have."""
_WINDOWED: Final = ("sliding", "chunked", "local")


class Heads(NamedTuple):
    """The heads of an attention; None for what nothing tells."""

    queries: int | None
    keys: int | None
    """How many heads of keys, and of values; 0 where a list says that there are none."""
    size: int | None
    value: int | None
    """Numbers in a head of values."""


def heads_of(config: Config, layer: int) -> Heads:
    """Return the heads of a layer; those that see a window may have others than those that see all."""
    own = _OF_ALL if window_of(config, layer) is None else _OF_WINDOWS
    special = {what: integer(config.get(name)) for what, name in own.items()}
    if own is _OF_ALL and config.get("attention_k_eq_v") is False:
        special["kv_heads"] = None  # heads of their own are those of keys that are values as well
    queries, hidden = first_told(config, ATTENTION_HEADS), first_told(config, HIDDEN)
    keys = special["kv_heads"] or _kv_heads(config, layer)
    if own is _OF_WINDOWS and not special["kv_heads"] and type_named(config) in _TWICE:
        keys = None if keys is None else 2 * keys
    size = special["head"] or first_told(config, _HEAD_SIZES)
    if size is None and hidden and queries:
        size = hidden // queries
    value = None if special["head"] else first_told(config, (VALUE_DIM, "v_head_dim"))
    return Heads(queries, keys, size, special.get("value") or value or size)


def own_config(config: Config, layer: int) -> Config | None:
    """Return what a configuration says of one layer alone."""
    layers = config.get(PER_LAYER)
    if not isinstance(layers, Mapping):
        return None
    found = next((own for key, own in layers.items() if str(key).isdecimal() and int(key) == layer), None)
    return found if isinstance(found, Mapping) else None


def _kv_heads(config: Config, layer: int) -> int | None:
    """Return the heads of a layer's keys and values; 0 where a list says that it has none."""
    listed = config.get("num_key_value_heads")
    if isinstance(listed, list):
        return (integer(listed[layer]) or 0) if layer < len(listed) else None
    one = config.get("multi_query") is True or config.get("multi_query_attention") is True
    if one and not config.get("new_decoder_architecture") and not config.get("multi_query_group_num"):
        return 1
    return first_told(config, _KV_HEADS) or first_told(config, ATTENTION_HEADS)


def layer_kinds(config: Config) -> list[str]:
    """Return what each layer is, where the configuration says it."""
    lists = (config.get(name) for name in ("layer_types", "layers_block_type"))
    return next(([str(kind) for kind in kinds] for kinds in lists if isinstance(kinds, list)), [])


def layer_kind(config: Config, layer: int) -> str | None:
    """Return what a layer is, where the configuration says it."""
    kinds = layer_kinds(config)
    return kinds[layer] if layer < len(kinds) else None


def window_of(config: Config, layer: int) -> int | None:
    """Return how many tokens back a layer sees, None if all."""
    kind = layer_kind(config, layer)
    size = first_told(config, WINDOWS)
    if size is None or config.get("use_sliding_window") is False:
        return None
    if kind is not None:
        chunk = integer(config.get("attention_chunk_size")) if kind == "chunked_attention" else None
        return (chunk or size) if any(word in kind for word in _WINDOWED) else None
    first = config.get("max_window_layers") if config.get("use_sliding_window") is True else 0
    every = first_told(config, ("sliding_window_pattern",)) or _PATTERNS.get(type_named(config))
    sees_all = (layer + 1) % every == 0 if every else layer < (first if isinstance(first, int) else 0)
    return None if sees_all else size

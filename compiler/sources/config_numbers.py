"""Numbers of a ``config.json`` that go by several names, and the part of it that tells of text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from ...ir import ModuleTree

Config: TypeAlias = Mapping[str, Any]

ATTENTION_HEADS: Final = (
    "num_attention_heads", "decoder_attention_heads", "attention_heads", "n_heads", "n_head", "num_heads",
)  # fmt: skip
QUERY_HEADS: Final = (*ATTENTION_HEADS, "num_decoder_attention_heads")
HIDDEN: Final = ("hidden_size", "d_model", "n_embd", "dim")
STATE_SIZES: Final = ("mamba_d_state", "ssm_state_size", "state_size", "d_state")
LAYERS: Final = (
    "decoder_layers",
    "num_decoder_layers",
    "num_hidden_layers",
    "n_layers",
    "n_layer",
    "num_layers",
)
WINDOWS: Final = ("attention_window_size", "sliding_window", "sliding_window_size", "attention_chunk_size")
_INNER: Final = ("text_config", "llm_config", "language_config", "thinker_config", "decoder")
PACKING: Final = ("quantization_config", "compression_config")
"""What tells how weights are quantised; no part of a model, and not quantised where it is empty."""
WIDTHS: Final = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}

_ALIASES: Final = {"double": "float64", "float": "float32", "half": "float16"}


def dtype_named(config: Config) -> str:
    """Return the dtype a configuration says, by torch's usual name; nothing where it says none."""
    said = str(config.get("dtype") or config.get("torch_dtype") or "").removeprefix("torch.")
    return _ALIASES.get(said, said)


def nested_dtype(config: Config) -> str | None:
    """Return the dtype that only the part which writes says: weights not at hand are likely to have it."""
    said = "" if dtype_named(config) else dtype_named(text_config(config))
    return said if said in WIDTHS else None


def in_dtype_of(config: Config, dtype: str | None) -> Config:
    """Return a configuration whose model is loaded in a dtype, which counts for all parts."""
    if dtype not in WIDTHS:
        return config
    parts = {key: in_dtype_of(part, dtype) for key, part in config.items() if isinstance(part, dict)}
    inner = {key: part for key, part in parts.items() if key.endswith("_config") and key not in PACKING}
    return {**config, **inner, "dtype": dtype, "torch_dtype": dtype}


def quantisation_of(config: Config) -> Mapping[str, Any]:
    """Return what a configuration, or its part that writes, says of how weights are quantised."""
    for told in (config, text_config(config)):
        for said in map(told.get, PACKING):
            if isinstance(said, Mapping) and said:
                return said
    return {}


def type_named(config: Config) -> str:
    """Return the type a configuration says; nothing where it says none by a name."""
    said = config.get("model_type")
    return said if isinstance(said, str) else ""


def text_config(config: Config) -> Config:
    """Return the configuration of the part that writes text."""
    for name in _INNER:
        inner = config.get(name)
        if isinstance(inner, dict):
            return text_config(inner)
    return config


def integer(value: object) -> int | None:
    """Return a number a size can be; None for anything else."""
    return value if type(value) is int and 0 < value < 1 << 40 else None


def first_told(config: Config, names: Sequence[str]) -> int | None:
    """Return the number a configuration has under the first of so many names."""
    return next((value for name in names if (value := integer(config.get(name)))), None)


def first_number(config: Config, names: Sequence[str]) -> float:
    """Return the number above zero, whole or not, that goes by one of these names; else 0."""
    found = (config.get(name) for name in names)
    return next((value for value in found if isinstance(value, int | float) and value > 0), 0)


def number_width(config: Config, tree: ModuleTree) -> int:
    """Return the bytes of a number in the dtype the model computes in; quantised weights do not show it."""
    for told in (config, text_config(config)):
        width = WIDTHS.get(dtype_named(told))
        if width is not None:
            return width
    found = Counter(dtype for dtype in tree.dtypes if dtype in WIDTHS)
    return WIDTHS[found.most_common(1)[0][0]] if found else 2

"""What a GGUF file says of attention, by the names of a ``config.json``.

Files leave to llama.cpp's code which layers see a window and which read what others keep: those of an
architecture that is not here are not told, and nothing is guessed for them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from .config_numbers import integer
from .layer_numbers import VALUE_DIM, WINDOW_HEAD_DIM, WINDOW_VALUE_DIM

FAMILY: Final = "general.architecture"
CAUSAL: Final = "is_causal"
"""False where every token sees all others: nothing is kept for the next one."""
UNTOLD: Final = "untold_windows"
"""There where a file speaks of a window, and nothing tells which layers have it."""
_NAMES: Final = {
    "attention.causal": CAUSAL,
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.key_length_swa": WINDOW_HEAD_DIM,
    "attention.shared_kv_layers": "num_kv_shared_layers",
    "attention.value_length": VALUE_DIM,
    "attention.value_length_swa": WINDOW_VALUE_DIM,
    "block_count": "num_hidden_layers",
    "decoder_block_count": "decoder_layers",
    "embedding_length": "hidden_size",
    "expert_used_count": "num_experts_per_tok",
}
_LATENT: Final = {"attention.kv_lora_rank": "kv_lora_rank", "rope.dimension_count": "qk_rope_head_dim"}
_ABSORBED: Final = ".attn_k_b."
"""The matrix of files whose latents are attended to as they are; of others keys and values are kept whole."""
_DRAFTS: Final = "nextn_predict_layers"
"""How many of the blocks, the last ones, only speculate: they keep nothing and are not loaded."""
_WINDOW: Final = "attention.sliding_window"
_PATTERN: Final = "attention.sliding_window_pattern"
KEYS: Final = (*_NAMES, *_LATENT, _DRAFTS, _WINDOW, _PATTERN)
"""What is read, behind the name of the architecture."""

_EVERY: Final = {
    "afmoe": 4, "cohere2": 4, "cohere2moe": 4, "exaone-moe": 4, "exaone4": 4, "gemma-embedding": 6,
    "gemma2": 2, "gemma3": 6, "gemma3n": 5, "gpt-oss": 2, "llama4": 4, "olmo2": 4, "plamo3": 8,
}  # fmt: skip
"""Every how many layers one sees all tokens, of architectures whose windows are where the code puts them."""
_USUAL: Final = {"llama4": 8192}
"""The window of those that have one although their files may say nothing of it."""
_HEEDLESS: Final = frozenset(
    {"llama", "mistral3", "phi3", "phimoe", "qwen2", "qwen2moe", "qwen3", "qwen3moe"}
)
"""Architectures whose code has no windows, whatever their files say."""
_OWN_LAYERS: Final = {"gemma3n": 20}
"""How many layers keep something of their own where files do not say it; those behind read theirs."""


def config_of(family: str, told: Mapping[str, object], tensors: Collection[str]) -> dict[str, object]:
    """Return the configuration of an architecture whose file tells these numbers and holds these tensors."""
    latent = _LATENT if any(_ABSORBED in name for name in tensors) else {}
    numbers = {called: told.get(key) for key, called in (*_NAMES.items(), *latent.items())}
    found = {called: value for called, value in numbers.items() if value is not None}
    heads = found.get("num_attention_heads")
    if isinstance(heads, list):  # the widest, where nothing but the head's size follows from it
        found["num_attention_heads"] = max(heads, default=0)
        found.setdefault("num_key_value_heads", heads)
    layers = integer(found.get("num_hidden_layers"))
    if layers is not None:
        layers -= integer(told.get(_DRAFTS)) or 0
        found["num_hidden_layers"] = layers
        if layers > _OWN_LAYERS.get(family, layers):
            found["num_kv_shared_layers"] = layers - _OWN_LAYERS[family]
    return {"dtype": "float16", **found, **_windows(family, told.get(_WINDOW), told.get(_PATTERN))}


def _windows(family: str, size: object, pattern: object) -> dict[str, object]:
    """Return which layers see a window, where the file or its architecture says it."""
    size = _USUAL.get(family) if size is None else size
    if not size or family in _HEEDLESS:
        return {}
    if isinstance(pattern, list):
        kinds = ["sliding_attention" if each else "full_attention" for each in pattern]
        return {"sliding_window": size, "layer_types": kinds}
    every = pattern if isinstance(pattern, int) else _EVERY.get(family)
    return {UNTOLD: size} if every is None else {"sliding_window": size, "sliding_window_pattern": every}

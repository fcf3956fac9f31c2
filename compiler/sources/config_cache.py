"""The KV cache of a model known by its tensors and its ``config.json``: bytes of every layer, as demands.

Widths come from the projections where they are stored plainly, else from the configuration. What is
counted is what transformers keeps: latents for MLA, the last tokens for a window, a state of fixed size
(float32, and the inputs of its convolution) for recurrent layers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final, TypeAlias

from ...ir import Demand, ModuleTree
from ...ir.purposes import KV_CACHE
from .cache_sites import DECAYS, FUSED, KEYS, VALUES, CacheSite, Keeps, Layers, cache_sites

Config: TypeAlias = Mapping[str, Any]

_INNER: Final = ("text_config", "llm_config", "language_config", "thinker_config", "decoder")
_LAYERS: Final = (
    "decoder_layers",
    "num_decoder_layers",
    "num_hidden_layers",
    "n_layers",
    "n_layer",
    "num_layers",
)
_HEADS: Final = ("num_attention_heads", "decoder_attention_heads", "n_heads", "n_head", "num_heads")
_KV_HEADS: Final = ("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num")
_HIDDEN: Final = ("hidden_size", "d_model", "n_embd", "dim")
_STATE_HEADS: Final = ("mamba_n_heads", "mamba_num_heads", "n_mamba_heads", "num_heads")
_STATE_HEAD_DIM: Final = ("mamba_d_head", "mamba_head_dim", "mamba_headdim", "head_dim")
_STATE_SIZE: Final = ("mamba_d_state", "ssm_state_size", "state_size", "d_state")
_EXPAND: Final = ("mamba_expand", "expand")
_WIDTHS: Final = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
_STATE_WIDTH: Final = 4
_COUNTER: Final = 8
"""Bytes of the number of tokens seen, which a window keeps beside them."""
_PATTERNS: Final = {
    "gemma2": 2, "gemma3": 6, "gpt_oss": 2, "gemma3_text": 6, "gemma3n_text": 5, "cohere2": 4,
    "llama4_text": 4,
}  # fmt: skip
"""Every how many layers one sees all tokens, for configurations that leave it to the code."""
_NO_TOKENS: Final = frozenset({"linear_attention", "mamba", "mamba2", "conv", "recurrent", "mlp", "moe"})
VALUE_DIM: Final = "value_head_dim"
"""What a GGUF file's numbers are called here where values are narrower than keys."""
_WINDOWED: Final = ("sliding", "chunked", "local")
_WINDOWS: Final = ("attention_window_size", "sliding_window", "sliding_window_size", "attention_chunk_size")
_WIDE_INDEX: Final = "dots3"
"""Types whose index keeps its keys in float32."""
_NOT_CACHED: Final = frozenset({"openai-gpt", "xlm"})
"""What transformers computes anew for every token."""
_OTHERWISE: Final = ("mem_len", "H_cycles")
"""Memories and loops over the layers, which keep more than one entry a token or fewer."""


Cells: TypeAlias = Callable[[int, int | None], int]
"""Bytes apart, for how many of so many tokens a layer has room, where it sees only so many back."""


def cache_of_config(
    config: Config, tree: ModuleTree, tokens: int, batch: int, cells: Cells | None = None
) -> tuple[Demand, ...]:
    """Return the bytes each layer keeps for ``batch`` requests; none if it cannot be told.

    ``cells`` counts the tokens an engine makes room for; without it, it is what transformers keeps.
    """
    text = _text_config(config)
    if text.get("model_type") in _NOT_CACHED or any(name in text for name in _OTHERWISE):
        return ()
    count = _first(text, _LAYERS)
    cache = _Cache(text, tree, tokens, batch, _width(config, text, tree), cells)
    # The last layers may read what others keep: a checkpoint then has no keys of theirs.
    own = None if count is None else count - (_integer(text.get("num_kv_shared_layers")) or 0)
    sized = [(site, cache.nbytes(site)) for site in cache_sites(tree, _layers(config, text, own))]
    if any(nbytes is None for _, nbytes in sized):
        return ()
    return tuple(
        Demand(nbytes, tree.paths[site.module], KV_CACHE, added=True) for site, nbytes in sized if nbytes
    )


def _layers(config: Config, text: Config, count: int | None) -> Layers:
    names = config.get("architectures")
    architecture = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""
    reads = config.get("is_encoder_decoder") is True and not architecture.endswith("ForCausalLM")
    return Layers(count, _kinds(text), architecture, reads)


@dataclass(frozen=True, slots=True)
class _Cache:
    """What is asked for, of which model."""

    config: Config
    tree: ModuleTree
    tokens: int
    batch: int
    width: int
    cells: Cells | None

    def nbytes(self, site: CacheSite) -> int | None:
        """Return the bytes of one module; None if nothing tells."""
        if site.keeps is Keeps.STATE:
            return self._state(site.module)
        if _layer_kind(self.config, site.layer) in _NO_TOKENS:
            return None
        index = site.keeps is Keeps.KEYS
        if index and str(self.config.get("model_type")).startswith(_WIDE_INDEX):
            return (
                None
                if (keys := self._projected(site.module, KEYS)) is None
                else (keys * self.tokens * self.batch * _STATE_WIDTH)
            )
        elements = self._projected(site.module, KEYS) if index else self._token_elements(site)
        if elements is None:
            return None
        window = None if site.keeps is Keeps.READ else _window(self.config, site.layer)
        if self.cells is not None:
            return elements * self.cells(self.tokens, window) * self.batch * self.width
        tokens = self.tokens if window is None else min(self.tokens, window - 1)
        return elements * tokens * self.batch * self.width + (0 if window is None else _COUNTER)

    def _token_elements(self, site: CacheSite) -> int | None:
        """Return how many numbers a module keeps of one token."""
        module = site.module
        latents = self._projected(module, _LATENTS)
        if latents is not None:
            return latents
        latent = _integer(self.config.get("kv_lora_rank"))
        if latent:
            return latent + (_integer(self.config.get("qk_rope_head_dim")) or 0)
        keys = self._projected(module, KEYS)
        if keys is not None:
            return keys + (self._projected(module, VALUES) or keys)
        heads, kv_heads = _first(self.config, _HEADS), _kv_heads(self.config, site.layer)
        hidden = _first(self.config, _HIDDEN)
        size = _integer(self.config.get("head_dim") or self.config.get("d_kv"))
        if size is None and hidden and heads:
            size = hidden // heads
        fused = self._fused(module, hidden) if heads and size else None
        if fused is not None and heads and size and fused > heads * size:
            return fused - heads * size
        if kv_heads is None or size is None:
            return 0 if kv_heads == 0 else None
        return kv_heads * (size + (_integer(self.config.get(VALUE_DIM)) or size))

    def _fused(self, module: int, hidden: int | None) -> int | None:
        """Return the outputs of the projection that makes queries, keys and values at once."""
        for child in self.tree.children(module):
            if self.tree.names[child] in FUSED:
                for tensor in self.tree.own_tensors(child):
                    shape = self.tree.shapes[tensor]
                    plain = self.tree.dtypes[tensor] in _WIDTHS and self.tree.tensor_names[tensor] == "weight"
                    if plain and len(shape) == 2 and hidden in shape:
                        return shape[0] if shape[1] == hidden else shape[1]
        return None

    def _projected(self, module: int, names: frozenset[str]) -> int | None:
        """Return the outputs of a projection whose weight is stored as it is used, not packed."""
        for child in self.tree.children(module):
            if self.tree.names[child] in names:
                for tensor in self.tree.own_tensors(child):
                    plain = self.tree.dtypes[tensor].startswith(("float", "bfloat"))
                    packed = self.tree.dtypes[tensor].startswith("float4")
                    if self.tree.tensor_names[tensor] == "weight" and plain and not packed:
                        return self.tree.shapes[tensor][0] if len(self.tree.shapes[tensor]) == 2 else None
        return None

    def _state(self, module: int) -> int | None:
        window = self._convolution(module)
        if window is None:
            return None
        names = {self.tree.tensor_names[tensor] for tensor in self.tree.tensors(module)}
        recurrent = self._recurrent(module) if names & DECAYS else 0
        return None if recurrent is None else self.batch * (window * self.width + recurrent * _STATE_WIDTH)

    def _convolution(self, module: int) -> int | None:
        for child in self.tree.children(module):
            if "conv" in self.tree.names[child]:
                shapes = [self.tree.shapes[t] for t in self.tree.own_tensors(child)]
                return max(map(prod, shapes), default=None)
        return None

    def _recurrent(self, module: int) -> int | None:
        """Return the numbers in a state: of every head a matrix, whatever it is multiplied with."""
        by_name = {self.tree.tensor_names[t]: self.tree.shapes[t] for t in self.tree.own_tensors(module)}
        decay = by_name.get("A_log", ())
        if len(decay) == 2:
            return prod(decay)
        sizes = [_integer(self.config.get(f"linear_{name}")) for name in _LINEAR_STATE]
        heads, size = (_integer(self.config.get(f"linear_{name}")) for name in ("num_heads", "head_dim"))
        if heads and size:
            return heads * size * size
        linear = [size for size in sizes if size is not None]
        if len(linear) == len(sizes) and "mamba" not in self.tree.names[module]:
            return prod(linear)
        heads, size = _first(self.config, _STATE_HEADS), _first(self.config, _STATE_SIZE)
        head_dim, hidden = _first(self.config, _STATE_HEAD_DIM), _first(self.config, _HIDDEN)
        inner = (
            heads * head_dim if heads and head_dim else (_first(self.config, _EXPAND) or 0) * (hidden or 0)
        )
        return inner * size if inner and size else None


_LATENTS: Final = frozenset({"kv_a_proj_with_mqa", "kv_a_proj"})
_LINEAR_STATE: Final = ("num_value_heads", "key_head_dim", "value_head_dim")


def _text_config(config: Config) -> Config:
    for name in _INNER:
        inner = config.get(name)
        if isinstance(inner, dict):
            return _text_config(inner)
    return config


def _integer(value: object) -> int | None:
    return value if type(value) is int and 0 < value < 1 << 40 else None


def _first(config: Config, names: Sequence[str]) -> int | None:
    return next((value for name in names if (value := _integer(config.get(name)))), None)


def _kv_heads(config: Config, layer: int) -> int | None:
    """Return the heads of a layer's keys and values; 0 where a list says that it has none."""
    listed = config.get("num_key_value_heads")
    if isinstance(listed, list):
        return (_integer(listed[layer]) or 0) if layer < len(listed) else None
    one = config.get("multi_query") is True or config.get("multi_query_attention") is True
    if one and not config.get("new_decoder_architecture") and not config.get("multi_query_group_num"):
        return 1
    return _first(config, _KV_HEADS) or _first(config, _HEADS)


def number_width(config: Config, tree: ModuleTree) -> int:
    """Return the bytes of a number in the dtype the model computes in."""
    return _width(config, _text_config(config), tree)


def _width(config: Config, text: Config, tree: ModuleTree) -> int:
    """Return the bytes of a number in the dtype the model computes in; quantised weights do not show it."""
    for told in (text, config):
        for name in ("dtype", "torch_dtype"):
            width = _WIDTHS.get(str(told.get(name)).removeprefix("torch."))
            if width is not None:
                return width
    found = Counter(dtype for dtype in tree.dtypes if dtype in _WIDTHS)
    return _WIDTHS[found.most_common(1)[0][0]] if found else 2


def _kinds(config: Config) -> list[str]:
    """Return what each layer is, where the configuration says it."""
    lists = (config.get(name) for name in ("layer_types", "layers_block_type"))
    return next(([str(kind) for kind in kinds] for kinds in lists if isinstance(kinds, list)), [])


def _layer_kind(config: Config, layer: int) -> str | None:
    kinds = _kinds(config)
    return kinds[layer] if layer < len(kinds) else None


def _window(config: Config, layer: int) -> int | None:
    """Return how many tokens back a layer sees, None if all."""
    kind = _layer_kind(config, layer)
    size = _first(config, _WINDOWS)
    if size is None or config.get("use_sliding_window") is False:
        return None
    if kind is not None:
        chunk = _integer(config.get("attention_chunk_size")) if kind == "chunked_attention" else None
        return (chunk or size) if any(word in kind for word in _WINDOWED) else None
    first = config.get("max_window_layers") if config.get("use_sliding_window") is True else 0
    every = _first(config, ("sliding_window_pattern",)) or _PATTERNS.get(str(config.get("model_type")))
    sees_all = (layer + 1) % every == 0 if every else layer < (first if isinstance(first, int) else 0)
    return None if sees_all else size

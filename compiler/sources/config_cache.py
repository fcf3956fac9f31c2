"""The KV cache of a model known by its tensors and its ``config.json``: bytes of every layer, as demands.

Widths come from the projections where they are stored plainly, else from the configuration. What is
counted is what transformers keeps: latents for MLA, the last tokens for a window, a state of fixed size
(float32, and the inputs of its convolution) for recurrent layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Final, TypeAlias

from ...ir import Demand, ModuleTree
from ...ir.purposes import KV_CACHE
from .cache_sites import DECAYS, FUSED, KEYS, PAIRED, VALUES, CacheSite, Keeps, Layers, cache_sites
from .config_numbers import (
    HIDDEN,
    LAYERS,
    STATE_SIZES,
    WIDTHS,
    Config,
    first_told,
    integer,
    number_width,
    text_config,
    type_named,
)
from .forward_sizes import heard_tokens
from .known_classes import architecture
from .layer_numbers import PER_LAYER, heads_of, layer_kind, layer_kinds, own_config, window_of

_STATE_HEADS: Final = ("mamba_n_heads", "mamba_num_heads", "n_mamba_heads", "num_heads")
_STATE_HEAD_DIM: Final = ("mamba_d_head", "mamba_head_dim", "mamba_headdim", "head_dim")
_EXPAND: Final = ("mamba_expand", "expand")
_STATE_WIDTH: Final = 4
_COUNTER: Final = 8
"""Bytes of the number of tokens seen, which a window keeps beside them."""
_NO_TOKENS: Final = frozenset({"linear_attention", "mamba", "mamba2", "conv", "recurrent", "mlp", "moe"})
_WIDE_INDEX: Final = "dots3"
"""Types whose index keeps its keys in float32."""
_NOT_CACHED: Final = frozenset({"openai-gpt", "xlm"})
"""What transformers computes anew for every token."""
_WRITERS: Final = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
_OTHERWISE: Final = ("mem_len", "H_cycles", "ngram")
"""Memories, loops over the layers and streams beside the text: more than one entry a token, or fewer."""


Cells: TypeAlias = Callable[[int, int | None], int]
"""Bytes apart, for how many of so many tokens a layer has room, where it sees only so many back."""


def cache_of_config(
    config: Config,
    tree: ModuleTree,
    tokens: int,
    batch: int,
    cells: Cells | None = None,
    read: int | None = None,
    written: int | None = None,
) -> tuple[Demand, ...]:
    """Return the bytes each layer keeps for ``batch`` requests; none if it cannot be told.

    ``cells`` counts the tokens an engine makes room for; without it, it is what transformers keeps. ``read``
    is how long the prompt is: so many tokens an encoder reads, and a window holds on to until the next one.
    Where an encoder reads, a decoder begins with one token and keeps it and those ``written``.
    """
    text = text_config(config)
    if type_named(text) in _NOT_CACHED or any(name in text for name in _OTHERWISE):
        return ()
    if any(inner is not text and _keeps_what_it_heard(inner) for inner in config.values()):
        return ()
    count = first_told(text, LAYERS)
    told = _layers(config, text, None)
    read = read if (heard := heard_tokens(config)) is None else heard  # silence is read as well
    tokens = 1 + written if told.reads_encoder and written is not None else tokens
    cache = _Cache(text, tree, tokens, batch, number_width(config, tree), cells, read)
    # The last layers may read what others keep: a checkpoint then has no keys of theirs.
    own = None if count is None else count - (integer(text.get("num_kv_shared_layers")) or 0)
    sized = [(site, cache.nbytes(site)) for site in cache_sites(tree, replace(told, count=own))]
    if any(nbytes is None for _, nbytes in sized):
        return ()
    return tuple(
        Demand(nbytes, tree.paths[site.module], KV_CACHE, added=True) for site, nbytes in sized if nbytes
    )


def _keeps_what_it_heard(inner: object) -> bool:
    """Say whether a part beside the text keeps something of what it read, as encoders of live sound do."""
    return isinstance(inner, Mapping) and inner.get("use_cache") is True and "sliding_window" in inner


def _layers(config: Config, text: Config, count: int | None) -> Layers:
    name = architecture(config) or ""
    reads = config.get("is_encoder_decoder") is True and not name.endswith("ForCausalLM")
    return Layers(count, layer_kinds(text), name, reads)


def keeps_unknown(config: Config) -> bool:
    """Say whether a model writes text and keeps something for the next token, whatever that is."""
    return writes_text(config) and type_named(text_config(config)) not in _NOT_CACHED


def writes_text(config: Config) -> bool:
    """Say whether the class of a configuration writes text token by token."""
    return (architecture(config) or "").endswith(_WRITERS)


@dataclass(frozen=True, slots=True)
class _Cache:
    """What is asked for, of which model."""

    config: Config
    tree: ModuleTree
    tokens: int
    batch: int
    width: int
    cells: Cells | None
    read: int | None

    def nbytes(self, site: CacheSite) -> int | None:
        """Return the bytes of one module; None if nothing tells."""
        own = own_config(self.config, site.layer)
        if own is not None:
            return replace(self, config={**self.config, **own, PER_LAYER: None}).nbytes(site)
        if site.keeps is Keeps.STATE:
            return self._state(site.module)
        if layer_kind(self.config, site.layer) in _NO_TOKENS:
            return None
        if site.keeps is Keeps.KEYS:
            return self._index(site)
        elements = self._token_elements(site)
        if elements is None or site.keeps is Keeps.READ:
            return (
                None if elements is None else elements * (self.read or self.tokens) * self.batch * self.width
            )
        return self._grown(elements, window_of(self.config, site.layer))

    def _grown(self, elements: int, window: int | None) -> int:
        """Return the bytes of so many numbers of each token that is kept."""
        if self.cells is not None:
            return elements * self.cells(self.tokens, window) * self.batch * self.width
        narrow = window is not None and window > 1  # of a window of one, transformers keeps all
        tokens = min(self.tokens, window - 1) if window is not None and narrow else self.tokens
        if window is not None and narrow and self.read is not None and self.read >= window:
            tokens = self.read  # a window is a view of what was read
        return elements * tokens * self.batch * self.width + (0 if window is None else _COUNTER)

    def _index(self, site: CacheSite) -> int | None:
        keys = self._projected(site.module, KEYS)
        if keys is None or not type_named(self.config).startswith(_WIDE_INDEX):
            return None if keys is None else self._grown(keys, window_of(self.config, site.layer))
        return keys * self.tokens * self.batch * _STATE_WIDTH

    def _token_elements(self, site: CacheSite) -> int | None:
        """Return how many numbers a module keeps of one token."""
        module = site.module
        latents = self._projected(module, _LATENTS)
        if latents is not None:
            return latents
        latent = integer(self.config.get("kv_lora_rank"))
        if latent:
            return latent + (integer(self.config.get("qk_rope_head_dim")) or 0)
        keys = self._projected(module, KEYS)
        if keys is not None:
            return keys + (self._projected(module, VALUES) or keys)
        return self._elements_of_heads(module, site.layer)

    def _elements_of_heads(self, module: int, layer: int) -> int | None:
        """Return the same by the number and the size of heads, where keys have no projection of their own."""
        heads, kv_heads, size, value = heads_of(self.config, layer)
        hidden = first_told(self.config, HIDDEN)
        if any(self.tree.names[child] in PAIRED for child in self.tree.children(module)):
            both = self._projected(module, PAIRED)  # one for keys and values alike is half of it
            return both if both and kv_heads and both == 2 * kv_heads * (size or 0) else None
        fused = self._fused(module, hidden) if heads and size else None
        if fused is not None and heads and size and fused > heads * size:
            return fused - heads * size
        if kv_heads is None or size is None or value is None:
            return 0 if kv_heads == 0 else None
        return kv_heads * (size + value)

    def _fused(self, module: int, hidden: int | None) -> int | None:
        """Return the outputs of the projection that makes queries, keys and values at once."""
        for child in self.tree.children(module):
            if self.tree.names[child] in FUSED:
                for tensor in self.tree.own_tensors(child):
                    shape = self.tree.shapes[tensor]
                    plain = self.tree.dtypes[tensor] in WIDTHS and self.tree.tensor_names[tensor] == "weight"
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
        sizes = [integer(self.config.get(f"linear_{name}")) for name in _LINEAR_STATE]
        heads, size = (integer(self.config.get(f"linear_{name}")) for name in ("num_heads", "head_dim"))
        if heads and size:
            return heads * size * size
        linear = [size for size in sizes if size is not None]
        if len(linear) == len(sizes) and "mamba" not in self.tree.names[module]:
            return prod(linear)
        heads, size = first_told(self.config, _STATE_HEADS), first_told(self.config, STATE_SIZES)
        head_dim, hidden = first_told(self.config, _STATE_HEAD_DIM), first_told(self.config, HIDDEN)
        inner = (
            heads * head_dim
            if heads and head_dim
            else (first_told(self.config, _EXPAND) or 0) * (hidden or 0)
        )
        return inner * size if inner and size else None


_LATENTS: Final = frozenset({"kv_a_proj_with_mqa", "kv_a_proj"})
_LINEAR_STATE: Final = ("num_value_heads", "key_head_dim", "value_head_dim")

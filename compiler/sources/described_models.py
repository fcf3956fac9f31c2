"""Models whose module tree follows from their configuration by a table, with torch and transformers unopened.

``described_models.json`` is written by ``benchmarks/described_models.py`` from an installed transformers: for
each class the tree of one model, its sizes as words for numbers of the configuration, kept where other models
of the class came out the same. A configuration that says what the table was not tried with is nobody's here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, NamedTuple

from ...ir import ModuleTree, Role
from .known_classes import architecture

_TABLE: Final = Path(__file__).with_name("described_models.json")
LAYER: Final = "#"
"""The name of a row that stands for every layer."""
SIZES: Final = frozenset(
    {
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "head_dim", "num_experts", "num_local_experts", "moe_intermediate_size",
    }
)  # fmt: skip
"""What a configuration may say freely."""
_WORDLESS: Final = frozenset(
    {
        "_name_or_path", "architectures", "attention_dropout", "attn_logit_softcapping", "bos_token_id",
        "cache_implementation", "eos_token_id", "final_logit_softcapping", "hidden_act", "hidden_activation",
        "initializer_range", "max_position_embeddings",
        "max_window_layers", "model_type", "norm_topk_prob", "num_experts_per_tok", "output_router_logits",
        "pad_token_id", "pretraining_tp", "query_pre_attn_scalar", "rms_norm_eps",
        "rope_theta", "router_aux_loss_coef", "sliding_window", "transformers_version", "use_cache",
        "use_sliding_window",
    }
)  # fmt: skip
"""What changes no size of a class in the table."""
_ROPE: Final = frozenset(
    {
        "attention_factor", "beta_fast", "beta_slow", "factor", "high_freq_factor", "low_freq_factor",
        "original_max_position_embeddings", "rope_theta", "rope_type", "type",
    }
)  # fmt: skip
_ROPE_KINDS: Final = frozenset({"default", "dynamic", "linear", "llama3", "yarn"})
_ATTENTIONS: Final = frozenset({"full_attention", "sliding_attention"})
_MOST_LAYERS: Final = 4_096
_DTYPES: Final = frozenset({"bfloat16", "float16", "float32"})


class _Tensor(NamedTuple):
    name: str
    role: int
    dims: tuple[str | int, ...]
    float32: bool
    """Whether it has this dtype whatever the model has."""


class _Row(NamedTuple):
    depth: int
    name: str
    kind: str
    tensors: tuple[_Tensor, ...]


@dataclass(frozen=True, slots=True)
class DescribedClass:
    """One class of the table."""

    defaults: Mapping[str, Any]
    extra: tuple[str, ...]
    """Sizes that the class heeds although its configuration has no such field."""
    spelled: Mapping[str, str]
    """Other names of sizes, that its configuration reads and may write, and the names the table has."""
    rows: tuple[_Row, ...]
    """The modules in pre-order; those below a `LAYER` come once."""
    tied: tuple[str, str] | None
    """The head and the table that are one tensor if the configuration ties words."""
    listed: tuple[str, ...]
    declared: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Described:
    """A model the table describes."""

    name: str
    tree: ModuleTree
    kind: DescribedClass
    config: Mapping[str, Any]
    """The configuration with the defaults of its class."""


def table_version() -> str:
    """Return the version of transformers whose classes are in the table."""
    return str(_content()["transformers"])


def described_model(config: Mapping[str, Any]) -> Described | None:
    """Return the model of a configuration; None where the table does not tell."""
    model_type = str(config.get("model_type"))
    name = _usual_class(model_type) if not config.get("architectures") else architecture(config) or ""
    kind = described_class(name, model_type)
    if kind is None:
        return None
    spelled = {kind.spelled.get(key, key): value for key, value in config.items()}
    if len(spelled) < len(config) or not all(_is_tried(key, value, kind) for key, value in spelled.items()):
        return None
    config = spelled
    whole = {**kind.defaults, **config, "architectures": [name]}
    sizes, layers = named_sizes(whole), whole.get("num_hidden_layers")
    if sizes is None or type(layers) is not int or layers > _MOST_LAYERS:
        return None
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    tied = bool(whole.get("tie_word_embeddings"))
    return Described(name, _Columns(kind, sizes, layers, dtype).tree(tied=tied), kind, whole)


def _usual_class(model_type: str) -> str:
    """Return the class AutoModelForCausalLM has for a type, if it is in the table."""
    names = (key.split(" ") for key in _content()["classes"])
    return next((name for name, of in names if of == model_type), "")


def _is_tried(key: str, value: object, kind: DescribedClass) -> bool:
    """Say whether models with such a value came out as the table says."""
    defaults = kind.defaults
    match key:
        case _ if key in SIZES:
            return _is_size(key, value, kind)
        case "dtype" | "torch_dtype":
            return value is None or (isinstance(value, str) and value in _DTYPES)
        case "rope_scaling" | "rope_parameters":
            said = value if isinstance(value, dict) else {}
            way = said.get("rope_type", said.get("type", "default"))
            known = said.keys() <= _ROPE and isinstance(way, str) and way in _ROPE_KINDS
            return known and (value is None or isinstance(value, dict))
        case "layer_types":
            return value is None or (
                isinstance(value, list) and all(map(_ATTENTIONS.__contains__, map(str, value)))
            )
        case "tie_word_embeddings":
            return isinstance(value, bool)
        case _:
            usual = None if value == [] else value
            return key in _WORDLESS or (key in defaults and defaults[key] == usual)


def _is_size(key: str, value: object, kind: DescribedClass) -> bool:
    """Say whether the class heeds a size, and it is one; left out may be what its class leaves out."""
    if type(value) is int:
        return (key in kind.defaults or key in kind.extra) and 0 < value < 2**31
    return value is None and key in kind.defaults and kind.defaults[key] is None


def named_sizes(config: Mapping[str, Any]) -> dict[str, int] | None:
    """Return the sizes that tensors may have, by word; None for a configuration that lacks one."""
    try:
        hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        vocab, inner = int(config["vocab_size"]), int(config["intermediate_size"])
    except (KeyError, TypeError):
        return None
    if config.get("head_dim") is None and hidden % heads:
        return None
    found = {"vocab": vocab, "hidden": hidden, "inner": inner, "two inner": 2 * inner}
    head = int(config.get("head_dim") or hidden // heads)
    queries, keys = heads * head, int(config.get("num_key_value_heads") or heads) * head
    found |= {"head": head, "half": head // 2, "queries": queries, "keys": keys, "qkv": queries + 2 * keys}
    experts = config.get("num_local_experts") or config.get("num_experts")
    own = config.get("moe_intermediate_size")
    found |= {} if experts is None else {"experts": int(experts)}
    found |= {} if own is None else {"own": int(own), "two own": 2 * int(own)}
    return found


@dataclass(slots=True)
class _Columns:
    """The columns of a tree while they grow."""

    kind: DescribedClass
    sizes: Mapping[str, int]
    layers: int
    dtype: str
    names: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    tensors: list[_Tensor] = field(default_factory=list)

    def tree(self, *, tied: bool) -> ModuleTree:
        """Return the tree."""
        self._grow()
        ends = list(range(1, len(self.names) + 1))
        for module in range(len(ends) - 1, 0, -1):
            ends[self.parents[module]] = max(ends[self.parents[module]], ends[module])
        tree = ModuleTree(
            names=tuple(self.names),
            classes=tuple(self.classes),
            parents=tuple(self.parents),
            ends=tuple(ends),
            first_tensors=tuple(accumulate(self.counts, initial=0)),
            tensor_names=tuple(each.name for each in self.tensors),
            shapes=tuple(tuple(self._size(dim) for dim in each.dims) for each in self.tensors),
            dtypes=tuple("float32" if each.float32 else self.dtype for each in self.tensors),
            roles=tuple(Role(each.role) for each in self.tensors),
            storages=tuple(range(len(self.tensors))),
        )
        return _tied(tree, self.kind.tied) if tied and self.kind.tied is not None else tree

    def _grow(self) -> None:
        above: list[int] = []
        for depth, name, kind, tensors in _repeated(self.kind.rows, self.layers):
            del above[depth:]
            self.parents.append(above[-1] if above else -1)
            above.append(len(self.names))
            self.names.append(name)
            self.classes.append(kind)
            self.counts.append(len(tensors))
            self.tensors += tensors

    def _size(self, dim: str | int) -> int:
        return self.sizes[dim] if isinstance(dim, str) else dim


def _repeated(rows: tuple[_Row, ...], layers: int) -> Iterator[_Row]:
    """Yield the rows with those of a layer once for each."""
    start = next(at for at, row in enumerate(rows) if row.name == LAYER)
    after = (at for at, row in enumerate(rows) if at > start and row.depth <= rows[start].depth)
    end = next(after, len(rows))
    yield from rows[:start]
    for number in range(layers):
        yield rows[start]._replace(name=str(number))
        yield from rows[start + 1 : end]
    yield from rows[end:]


def _tied(tree: ModuleTree, pair: tuple[str, str]) -> ModuleTree:
    one, other = sorted(tree.tensor_index[path] for path in pair)
    return replace(tree, storages=(*tree.storages[:other], one, *tree.storages[other + 1 :]))


def described_class(name: str, model_type: str) -> DescribedClass | None:
    """Return a class of the table, for configurations of one type; several may have the same class."""
    row = _content()["classes"].get(f"{name} {model_type}")
    if row is None:
        return None
    return DescribedClass(
        defaults=row["defaults"],
        extra=tuple(row["extra"]),
        spelled=row["spelled"],
        rows=tuple(read_row(each) for each in row["rows"]),
        tied=None if row["tied"] is None else (row["tied"][0], row["tied"][1]),
        listed=tuple(row["listed"]),
        declared=tuple(row["declared"]),
    )


def read_row(row: list[Any]) -> _Row:
    """Return a row of the table as written in JSON."""
    depth, name, kind, tensors = row
    return _Row(depth, name, kind, tuple(_Tensor(a, b, tuple(dims), bool(c)) for a, b, dims, c in tensors))


@cache
def _content() -> Any:  # noqa: ANN401
    return json.loads(_TABLE.read_text(encoding="utf-8"))

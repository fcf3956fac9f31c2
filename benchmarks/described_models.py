"""Write compiler/sources/described_models.json: trees of transformers' classes in words of configurations.

``python benchmarks/described_models.py``: every causal language model is built on the meta device with sizes
that are all different, its tree is written in words for them, and the words are tried on models of other
sizes, dtypes and ties. A class for which one comes out differently is left out, and built when it is planned.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

import transformers
from compile_plan.compiler.sources import described_models
from compile_plan.compiler.sources.config import built_weightless
from compile_plan.compiler.sources.config_activations import activation_demands
from compile_plan.compiler.sources.config_cache import cache_of_config
from compile_plan.compiler.sources.config_work import config_work
from compile_plan.compiler.sources.described_models import LAYER, SIZES, named_sizes
from compile_plan.compiler.sources.kept_dtypes import loaded_tree
from compile_plan.compiler.sources.live import declared_classes, no_split_classes
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

if TYPE_CHECKING:
    from compile_plan.ir import ModuleTree

PROBE = {
    "vocab_size": 1013, "hidden_size": 132, "intermediate_size": 347, "num_hidden_layers": 3,
    "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 20, "num_experts": 7,
    "num_local_experts": 7, "moe_intermediate_size": 89, "max_position_embeddings": 4099,
    "pad_token_id": None,
}  # fmt: skip
"""Sizes of which no two are the same, nor any two words made of them."""
OTHERS = (
    {"torch_dtype": "bfloat16", "num_hidden_layers": 2},
    {"torch_dtype": "float16", "tie_word_embeddings": True},
    {"tie_word_embeddings": False, "hidden_size": 192, "head_dim": None, "num_key_value_heads": 3},
    {"hidden_size": 96, "intermediate_size": 200, "num_attention_heads": 4, "num_key_value_heads": None},
    {
        "vocab_size": 33,
        "head_dim": 6,
        "num_hidden_layers": 5,
        "max_position_embeddings": 128,
        "rope_theta": 1e6,
    },
    {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}},
    {"rope_scaling": {"rope_type": "linear", "factor": 2.0}, "sliding_window": 64},
)
"""What is changed of the probe, one after the other."""


def defaults_of(kind: type) -> dict[str, Any]:
    """Return what a configuration is without a word said: its class's fields, as far as JSON holds them."""
    found = {each.name: getattr(kind, each.name, None) for each in fields(kind)} if is_dataclass(kind) else {}
    plain = {
        name: value for name, value in found.items() if isinstance(value, bool | int | float | str | None)
    }
    return {name: value for name, value in sorted(plain.items()) if not name.startswith("_")}


def other_names(kind: Any, known: Collection[str]) -> dict[str, str]:
    """Return how else a configuration's class names its sizes, and the names they have in its fields."""
    pairs = [pair for one in kind.attribute_map.items() for pair in (one, one[::-1])]
    return {
        other: name
        for other, name in pairs
        if {other, name} <= SIZES and name in known and other not in known
    }


def said(defaults: Mapping[str, Any], extra: Collection[str], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration as a file has it: the probe's sizes the class knows, and the changes."""
    known = {*defaults, *extra}
    sizes = {name: value for name, value in PROBE.items() if name in known}
    wanted = {name: value for name, value in changes.items() if name in known or name not in SIZES}
    left_out = {name for name, value in wanted.items() if value is None and defaults.get(name, 0) is not None}
    return sizes | {name: value for name, value in wanted.items() if name not in left_out}


def built(name: str, config_class: Any, content: Mapping[str, Any]) -> tuple[Any, ModuleTree]:
    config = config_class.from_dict({"architectures": [name], **content})
    model = built_weightless(lambda: getattr(transformers, name)._from_config(config))  # noqa: SLF001
    return model, loaded_tree(model)


def words(tree: ModuleTree, sizes: Mapping[str, int], layers: int, dtype: str) -> list[list[Any]]:
    """Return the rows of a tree; raises `ValueError` where layers differ or a size is nobody's."""
    of_size: dict[int, str] = {}
    for word, size in sizes.items():
        if of_size.setdefault(size, word) not in {
            word,
            "hidden",
        }:  # without a head of its own, queries are as wide
            raise ValueError(f"{of_size[size]} and {word} have one size")
    rows = list(_rows(tree, of_size, dtype))
    starts = [at for at, row in enumerate(rows) if row[1].isdigit()]
    if len(starts) != layers:
        raise ValueError("there are stacks beside the layers")
    first, second = starts[0], starts[1]
    length = second - first
    blocks = [[row[:1] + row[2:] for row in rows[at : at + length]] for at in starts]
    if any(block != blocks[0] for block in blocks):
        raise ValueError("the layers differ")
    rows[first][1] = LAYER
    return [*rows[: first + length], *rows[starts[-1] + length :]]


def _rows(tree: ModuleTree, of_size: Mapping[int, str], dtype: str) -> Iterator[list[Any]]:
    for module in range(len(tree)):
        depth, above = 0, module
        while (above := tree.parents[above]) >= 0:
            depth += 1
        tensors = []
        for tensor in tree.own_tensors(module):
            dims = [1 if size == 1 else of_size[size] for size in tree.shapes[tensor]]
            kept = tree.dtypes[tensor] != dtype
            if kept and tree.dtypes[tensor] != "float32":
                raise ValueError(tree.dtypes[tensor])
            tensors.append([tree.tensor_names[tensor], int(tree.roles[tensor]), dims, int(kept)])
        yield [depth, tree.names[module], tree.classes[module], tensors]


def described(name: str, model_type: str, config_class: Any, *extra: str) -> dict[str, Any]:
    """Return the row of a class; raises where it is not told by its configuration's words."""
    asked = {"torch_dtype": "bfloat16", "tie_word_embeddings": False}
    defaults = defaults_of(config_class)
    content = {**said(defaults, extra, asked), "model_type": model_type}
    model, tree = built(name, config_class, content)
    sizes = named_sizes({**defaults, **content})
    if sizes is None:
        raise ValueError("no sizes")
    tied_model, tied = built(name, config_class, content | {"tie_word_embeddings": True})
    pairs = [(tied.tensor_paths[i], tied.tensor_paths[s]) for i, s in enumerate(tied.storages) if i != s]
    if len(pairs) > 1 or tied_model is None:
        raise ValueError("more than one tie")
    return {
        "defaults": defaults,
        "extra": list(extra),
        "spelled": other_names(config_class, {*defaults, *extra}),
        "rows": words(tree, sizes, content["num_hidden_layers"], "bfloat16"),
        "tied": pairs[0] if pairs else None,
        "listed": list(no_split_classes(model)),
        "declared": sorted(declared_classes(model)),
    }


def differs(name: str, model_type: str, config_class: Any, changes: Mapping[str, Any]) -> str | None:
    """Say how the model of a table's row differs from the one that is built; None where it does not."""
    kind = described_models.described_class(name, model_type)
    if kind is None:
        return "it is not in the table"
    told_words = said(kind.defaults, kind.extra, changes)
    content = {"architectures": [name], "model_type": model_type, **told_words}
    found = described_models.described_model(content)
    try:
        model, tree = built(name, config_class, content)
    except Exception as error:  # noqa: BLE001  # such a model cannot be: the table may say what it likes
        return None if found is None else f"cannot be built: {error}"
    if found is None:
        return "the table does not tell"
    if found.tree != tree or found.tree.classes != tree.classes:
        return "another tree"
    whole = model.config.to_dict()
    for told in (
        config_work,
        lambda c, t: cache_of_config(c, t, 640, 1),
        lambda c, t: activation_demands(c, t, 512, 1),
    ):
        if told(whole, tree) != told(found.config, tree):
            return "other needs"
    return None


def written(classes: dict[str, Any], name: str, model_type: str, *extra: str) -> str | None:
    """Write the row of a class; say why where it has none."""
    key = f"{name} {model_type}"
    try:
        config_class = CONFIG_MAPPING[model_type]
        classes[key] = described(name, model_type, config_class, *extra)
        wrong = next(filter(None, (differs(name, model_type, config_class, each) for each in OTHERS)), None)
    except Exception as error:  # noqa: BLE001  # whatever a class of somebody else raises
        wrong = f"{type(error).__name__} {str(error)[:90]}"
    if wrong is not None:
        classes.pop(key, None)
    return wrong


def main() -> None:
    classes: dict[str, Any] = {}
    table = {"transformers": transformers.__version__, "classes": classes}
    described_models._content = lambda: table  # type: ignore[assignment]  # noqa: SLF001
    for model_type, name in sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items()):
        wrong = written(classes, name, model_type)
        if wrong is None and "head_dim" not in classes[f"{name} {model_type}"]["defaults"]:
            kept = classes[f"{name} {model_type}"]
            if written(classes, name, model_type, "head_dim") is not None:
                classes[f"{name} {model_type}"] = kept
        print(f"{'+' if wrong is None else '-'} {name} {model_type} {wrong or ''}", flush=True)
    text = json.dumps(table, sort_keys=True, separators=(",", ":"))
    described_models._TABLE.write_text(text + "\n")  # noqa: SLF001
    print(len(classes), "classes")


if __name__ == "__main__":
    main()

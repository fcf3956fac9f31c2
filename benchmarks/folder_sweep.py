"""Load every transformers type by plans, from its saved folder, and compare with what transformers loads.

``python benchmarks/folder_sweep.py [FROM:TO[:STEP]] [--out results.jsonl]``: every type that builds is made
tiny and saved by ``save_pretrained``. Then it is loaded in three ways: by the plan of the live model on two
pretended cards, by the plan of the folder on the same, and by a plan that leaves everything on disk. What
comes out equals what ``from_pretrained`` makes of the folder, bit for bit, or the type is refused with a
code. ``--page results.jsonl`` prints docs/every-type.md.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from compile_plan.compiler import compile_model, compile_plan, load_model, load_pretrained
from compile_plan.ir import Device, Diagnostics, Model, Plan, PlanError, Unit
from torch import nn

sys.path.append(str(Path(__file__).parent))
from zoo_types import SETTINGS, classes_for

MOST = 400 << 20
"""Bytes of the largest model that is saved."""
_LISTED = {"layer_types", "mlp_layer_types", "layers_block_type"}
_LAYERS = ("layers", "layer", "depth", "blocks")
_WIDTHS = {
    "hidden_size": 64, "d_model": 64, "n_embd": 64, "embed_dim": 64, "dim": 64, "encoder_hidden_size": 64,
    "intermediate_size": 96, "ffn_dim": 96, "d_ff": 96, "n_inner": 96, "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32,
    "vocab_size": 512, "num_attention_heads": 4, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "n_head": 4, "num_heads": 4, "n_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "d_kv": 16,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
}  # fmt: skip
_UNTIED = {key: value for key, value in _WIDTHS.items() if key not in {"head_dim", "num_key_value_heads"}}
_FEW = {key: value for key, value in _WIDTHS.items() if "expert" in key or key == "vocab_size"}
_MEDIUM = {**_FEW, "intermediate_size": 96, "moe_intermediate_size": 32}


def tiny(kind: type[transformers.PreTrainedConfig], name: str) -> Iterator[transformers.PreTrainedConfig]:
    """Yield configs of a type, the smallest first; the last is its default."""
    for widths, layers in ((_WIDTHS, 2), (_UNTIED, 2), (_MEDIUM, 2), (_FEW, 2), ({}, None)):
        try:
            default = kind(**SETTINGS.get(name, {})).to_dict()
            yield kind(**_shrunk(default, widths, layers))
        except Exception:  # noqa: BLE001  # the next is larger
            continue


def _shrunk(content: dict[str, Any], widths: dict[str, int], layers: int | None) -> dict[str, Any]:
    small: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict) and key != "rope_parameters":
            small[key] = _shrunk(value, widths, layers)
        elif type(value) is int and layers and value > layers and _counts_layers(key, content):
            small[key] = layers
        elif type(value) is int and key in widths and value > widths[key]:
            small[key] = widths[key]
        elif (
            isinstance(value, list)
            and layers
            and key in {"layer_types", "mlp_layer_types", "layers_block_type"}
        ):
            small[key] = _each_kind(value, layers)
        else:
            small[key] = value
    for key in ("transformers_version", "architectures"):
        small.pop(key, None)
    return small


def _counts_layers(key: str, content: dict[str, Any]) -> bool:
    words = key.split("_")
    if "depths" in content and key == "num_layers":  # of stages, which their depths tell
        return False
    return words[-1] in _LAYERS and words[0] in {"num", "n", "encoder", "decoder", "depth"}


def _each_kind(kinds: list[Any], layers: int) -> list[Any]:
    return [*dict.fromkeys(kinds), *kinds][:layers]


class Saved(NamedTuple):
    """A tiny model in a folder, and what transformers loads from there."""

    cls: type[transformers.PreTrainedModel]
    nbytes: int
    loaded: transformers.PreTrainedModel
    lost: int
    """Tensors that transformers does not find in what it saved, and fills with random numbers."""


def saved(name: str, folder: Path, only: type[transformers.PreTrainedModel] | None = None) -> Saved | str:
    """Save a tiny model of a type, or of one class, and load it again; return why there is none otherwise."""
    kind = transformers.CONFIG_MAPPING[name]
    why = "no config"
    for config in tiny(kind, name):
        for cls in (only,) if only else _classes_of(config):
            try:
                with torch.device("meta"):
                    hollow = cls._from_config(config)
                nbytes = sum(p.numel() * p.element_size() for p in hollow.parameters())
                if nbytes > MOST:
                    why = f"{nbytes >> 20} MiB"
                    continue
                torch.manual_seed(0)
                cls._from_config(config).eval().save_pretrained(folder)
                loaded, said = cls.from_pretrained(folder, output_loading_info=True)
            except Exception as error:  # noqa: BLE001  # another class or config may
                why = f"{type(error).__name__}: {str(error).strip()[:80]}"
            else:
                return Saved(cls, nbytes, loaded, len(said["missing_keys"]))
    return why


def _classes_of(config: transformers.PreTrainedConfig) -> Iterator[type[transformers.PreTrainedModel]]:
    """Yield the classes for a config, up to one that transformers names and does not have."""
    with suppress(ValueError):
        yield from classes_for(config)


_CARDS = {"cuda:0": "cpu", "cuda:1": "cpu"}


def _by_live_plan(made: Saved, folder: Path) -> nn.Module:
    with torch.device("meta"):
        model = made.cls._from_config(transformers.AutoConfig.from_pretrained(folder))  # noqa: SLF001
    plan = compile_model(model, max_memory=_budgets(made.nbytes))
    return load_model(plan, model.eval(), folder, devices=_CARDS, diagnostics=Diagnostics())


def _by_folder_plan(made: Saved, folder: Path) -> nn.Module:
    plan = compile_plan(folder, max_memory=_budgets(made.nbytes))
    model = load_pretrained(folder, plan, auto_class=made.cls, devices=_CARDS, diagnostics=Diagnostics())
    wrong = _miscounted(plan, model)
    if wrong is not None:
        raise Wrong(wrong)
    return model


def _all_on_disk(made: Saved, folder: Path) -> nn.Module:
    served = Plan(Model(""), (Device("cpu", None), Device("disk", None)), units=(Unit("", "disk", "cpu"),))
    return load_pretrained(folder, served, auto_class=made.cls, diagnostics=Diagnostics())


WAYS = {"live plan": _by_live_plan, "folder plan": _by_folder_plan, "all on disk": _all_on_disk}


class Wrong(Exception):  # noqa: N818  # it is a result
    """Something was loaded, and it is not what it should be."""


def _budgets(nbytes: int) -> dict[str, int | str]:
    return {"cuda:0": int(nbytes * 0.7) + 65536, "cuda:1": int(nbytes * 0.7) + 65536, "cpu": "8GiB"}


def refusal(way: str, made: Saved, folder: Path) -> str | None:
    """Load a folder in one of the ways and compare; return what went wrong."""
    try:
        model = WAYS[way](made, folder)
        different = _difference(model, made.loaded)
    except PlanError as error:
        first = error.diagnostics[0]
        return f"{first.code}: {first.message[:150]} {'; '.join(first.notes)[:150]}"
    except Wrong as error:
        return str(error)
    except Exception as error:  # noqa: BLE001  # a defect of ours is a result too
        return f"{type(error).__name__}: {str(error)[:200]}"
    return different


def _miscounted(plan: Plan, model: nn.Module) -> str | None:
    """Say where a plan counts other bytes of parameters than the loaded model has."""
    assert plan.tree is not None
    assert plan.tree.nbytes is not None
    known = dict(model.named_parameters(remove_duplicate=False))
    rows = zip(plan.tree.tensor_paths, plan.tree.nbytes, strict=True)
    planned = sum(count for path, count in rows if path in known)
    real = sum(p.numel() * p.element_size() for p in model.parameters())
    return None if planned == real else f"miscounted: {planned} bytes planned, {real} loaded"


def _difference(ours: nn.Module, theirs: nn.Module) -> str | None:
    mine = {**dict(ours.named_parameters()), **dict(ours.named_buffers())}
    for path, value in {**dict(theirs.named_parameters()), **dict(theirs.named_buffers())}.items():
        got = mine.get(path)
        if got is None:
            return f"differs: no `{path}`"
        if got.dtype != value.dtype:
            return f"differs: `{path}` is {got.dtype}, transformers has {value.dtype}"
        if not torch.equal(
            *(torch.nan_to_num(each if each.is_complex() else each.float()) for each in (got, value))
        ):
            return f"differs: values of `{path}`"
    return None


def tried(name: str, folder: Path) -> dict[str, Any]:
    """Return what became of a type: why it is not built, what transformers loses, and each way's refusal."""
    made = saved(name, folder)
    if isinstance(made, str):
        return {"type": name, "unbuilt": made}
    row = {"type": name, "class": made.cls.__name__, "nbytes": made.nbytes, "lost": made.lost}
    return {**row, "ways": {way: refusal(way, made, folder) for way in WAYS}}


def sweep(names: list[str]) -> Iterator[dict[str, Any]]:
    """Yield one row a type."""
    for name in names:
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            row = tried(name, Path(folder))
        yield {**row, "seconds": round(time.perf_counter() - started, 2)}


def page(rows: list[dict[str, Any]]) -> str:
    """Return docs/every-type.md."""
    built = [row for row in rows if "unbuilt" not in row]
    read = [row for row in built if not row["lost"]]
    counts = [
        "| way | types | equal to what transformers loads | refused or different |",
        "|---|---|---|---|",
    ]
    for way in WAYS:
        refused = sum(row["ways"][way] is not None for row in read)
        counts.append(f"| {way} | {len(read)} | {len(read) - refused} | {refused} |")
    bad = [f"| `{row['type']}` | {way} | {why} |" for row in read for way, why in row["ways"].items() if why]
    lost = [
        f"| `{row['type']}` | {row['lost']} | {_one({why or 'loaded' for why in row['ways'].values()})} |"
        for row in built
        if row["lost"]
    ]
    unbuilt = Counter(_kind(row["unbuilt"]) for row in rows if "unbuilt" in row)
    return "\n".join(
        [
            *_HEAD.format(release=transformers.__version__, all=len(rows), built=len(built)).splitlines(),
            *counts,
            "",
            *(
                ["## Refused or different", "", "| type | way | what is said |", "|---|---|---|", *bad, ""]
                if bad
                else []
            ),
            "## What transformers itself does not read back",
            "",
            "Of these, transformers does not find in the folder what it saved there, and fills the tensors",
            "with random numbers. A checkpoint that lacks weights is refused.",
            "",
            "| type | tensors it loses | here |",
            "|---|---|---|",
            *lost,
            "",
            "## Not built",
            "",
            *(f"- {count}: {why}" for why, count in unbuilt.most_common()),
            "",
        ]
    )


_HEAD = """# Every transformers type

`python benchmarks/folder_sweep.py` makes every type that transformers {release} knows tiny, saves it with
`save_pretrained`, and loads it in three ways: by the plan of the live model on two pretended cards, by the
plan of the folder on the same cards, and by a plan that leaves everything on disk. Parameters and buffers
are compared with what `from_pretrained` makes of the same folder, bit for bit, and the bytes of the folder's
plan with those of the loaded model. The table is of one run of all; when the loader changes, every fourteenth
type is loaded again (last on 26 November: 45 that build, equal in all three ways).
Of {all} types {built} build from a config of their own; the others need a backbone, a package or a field
that no default has.

"""


def _kind(why: str) -> str:
    return why.partition(":")[0] if not why.endswith("MiB") else "larger than the sweep saves"


def _one(said: set[str]) -> str:
    return "; ".join(sorted({why.partition(":")[0] for why in said}))


def main() -> None:
    """Run a slice of the types, or count what runs wrote."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slice", nargs="?", default=":")
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--page", type=Path)
    asked = parser.parse_args()
    if asked.page:
        print(
            page(sorted(map(json.loads, asked.page.read_text().splitlines()), key=itemgetter("type"))), end=""
        )
        return
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    transformers.utils.logging.disable_progress_bar()
    numbers = slice(*(int(part) if part else None for part in asked.slice.split(":")))
    names = asked.only or sorted(transformers.CONFIG_MAPPING.keys())[numbers]
    for row in sweep(names):
        wrong = [f"{way}: {why}" for way, why in row.get("ways", {}).items() if why]
        print(row["type"], row.get("unbuilt") or "; ".join(wrong) or "loads", row["seconds"], flush=True)
        if asked.out:
            with asked.out.open("a") as stream:
                stream.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()

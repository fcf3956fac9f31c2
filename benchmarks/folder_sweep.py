"""Plan every transformers type from its saved folder and load it by that plan.

``python benchmarks/folder_sweep.py [FROM:TO[:STEP]] [--out results.jsonl]``: every type that builds is
made tiny, saved by ``save_pretrained``, planned from the folder on two pretended cards, and loaded by
our loader into a model built from the same folder. What comes out equals what transformers loads, bit
for bit, or the type is refused with a code. ``--table results.jsonl`` counts what was written.
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
from pathlib import Path
from typing import Any

import torch
import transformers
from compile_plan.compiler import compile_plan, load_model
from compile_plan.ir import Diagnostics, Plan, PlanError
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
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
        elif type(value) is int and layers and value > layers and _counts_layers(key):
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


def _counts_layers(key: str) -> bool:
    words = key.split("_")
    return words[-1] in _LAYERS and words[0] in {"num", "n", "encoder", "decoder", "depth"}


def _each_kind(kinds: list[Any], layers: int) -> list[Any]:
    return [*dict.fromkeys(kinds), *kinds][:layers]


def saved(name: str, folder: Path) -> tuple[type[transformers.PreTrainedModel], int] | str:
    """Save a tiny model of a type; return its class and bytes, or why there is none."""
    kind = transformers.CONFIG_MAPPING[name]
    why = "no config"
    for config in tiny(kind, name):
        for cls in classes_for(config):
            try:
                with torch.device("meta"):
                    hollow = cls._from_config(config)
                nbytes = sum(p.numel() * p.element_size() for p in hollow.parameters())
                if nbytes > MOST:
                    why = f"{nbytes >> 20} MiB"
                    continue
                torch.manual_seed(0)
                model = cls._from_config(config).eval()
                model.save_pretrained(folder)
                cls.from_pretrained(folder)
            except Exception as error:  # noqa: BLE001  # another class or config may
                why = f"{type(error).__name__}: {str(error).strip()[:80]}"
            else:
                return cls, nbytes
    return why


def refusal(cls: type[transformers.PreTrainedModel], folder: Path, nbytes: int) -> str | None:
    """Plan a folder, load by the plan and compare; return what went wrong."""
    found = Diagnostics()
    try:
        memory = {"cuda:0": int(nbytes * 0.7) + 65536, "cuda:1": int(nbytes * 0.7) + 65536, "cpu": "8GiB"}
        plan = compile_plan(folder, max_memory=memory)
        config = transformers.AutoConfig.from_pretrained(folder)
        with torch.device("meta"):
            model = cls._from_config(config)
        names = {"cuda:0": "cpu", "cuda:1": "cpu"}
        load_model(plan, model, folder, devices=names, diagnostics=found)
    except PlanError as error:
        first = error.diagnostics[0]
        return f"{first.code}: {first.message[:150]} {'; '.join(first.notes)[:150]}"
    except Exception as error:  # noqa: BLE001  # a defect of ours is a result too
        return f"{type(error).__name__}: {str(error)[:200]}"
    return _difference(model, cls.from_pretrained(folder)) or _miscounted(plan, model)


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
        if not torch.equal(torch.nan_to_num(got.float()), torch.nan_to_num(value.float())):
            return f"differs: values of `{path}`"
    return None


def sweep(names: list[str]) -> Iterator[dict[str, Any]]:
    """Yield one row a type."""
    for name in names:
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            made = saved(name, Path(folder))
            row: dict[str, Any] = {"type": name}
            if isinstance(made, str):
                row["unbuilt"] = made
            else:
                row |= {"class": made[0].__name__, "nbytes": made[1]}
                row["refused"] = refusal(made[0], Path(folder), made[1])
        yield {**row, "seconds": round(time.perf_counter() - started, 2)}


def table(rows: list[dict[str, Any]]) -> str:
    """Return the counts, as in docs/checkpoints.md."""
    built = [row for row in rows if "unbuilt" not in row]
    refused = [row for row in built if row["refused"]]
    kinds = Counter(row["refused"].partition(":")[0] for row in refused)
    lines = [
        f"{len(rows)} types, {len(built)} built and saved, {len(built) - len(refused)} loaded as planned"
    ]
    return "\n".join([*lines, *(f"  {count:4} {kind}" for kind, count in kinds.most_common())])


def main() -> None:
    """Run a slice of the types, or count what runs wrote."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slice", nargs="?", default=":")
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path)
    asked = parser.parse_args()
    if asked.table:
        print(table([json.loads(line) for line in asked.table.read_text().splitlines()]))
        return
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    transformers.utils.logging.disable_progress_bar()
    numbers = slice(*(int(part) if part else None for part in asked.slice.split(":")))
    names = asked.only or sorted(transformers.CONFIG_MAPPING.keys())[numbers]
    rows = []
    for row in sweep(names):
        rows.append(row)
        print(row["type"], row.get("unbuilt") or row["refused"] or "loads", row["seconds"], flush=True)
        if asked.out:
            with asked.out.open("a") as stream:
                stream.write(json.dumps(row) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()

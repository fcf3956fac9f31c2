"""Accelerator bytes used, and spills that could be avoided, over transformers' model types x budgets.

    python benchmarks/spills.py --out results.jsonl [--sample 30] [--types gpt2 llama]

Every type is built from its default config on the meta device. Results are appended as JSON lines;
what is in the file already is not run again. The table compares accelerate's map, the same with
balanced budgets, and ours; `possible` is the bound our search proved for the same budgets.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path

from compile_plan.compiler import PlanError, compile_model

BUDGETS = {
    "1x60": (0.6,),
    "2x25": (0.25, 0.25),
    "2x60": (0.6, 0.6),
    "4x28": (0.28,) * 4,
    "50+35+25": (0.5, 0.35, 0.25),
}
"""Budgets as shares of the model's bytes; two of five cannot hold it."""


def build(kind):
    import torch
    from transformers import AutoModel
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    with torch.device("meta"):
        return AutoModel.from_config(CONFIG_MAPPING[kind]())


def tensors(model):
    """Return (name, storage key, bytes) of every parameter and buffer, each name once."""
    found = []
    for rows in (model.named_parameters, model.named_buffers):
        for name, tensor in rows(remove_duplicate=False):
            found.append((name, id(tensor), tensor.nbytes))
    return found


def bytes_by_device(rows, device_map):
    """Return the bytes of each device, shared tensors once, and how many tensors have no device."""
    held, seen, missing = {}, set(), 0
    for name, key, nbytes in rows:
        path = name
        while path and path not in device_map:
            path = path.rpartition(".")[0]
        if path not in device_map:
            missing += 1
        elif key not in seen:
            seen.add(key)
            device = device_map[path]
            held[device] = held.get(device, 0) + nbytes
    return held, missing


def accelerate_map(model, budgets, *, balanced):
    from accelerate import infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    no_split = list(getattr(model, "_no_split_modules", None) or [])
    memory = get_balanced_memory(model, dict(budgets), no_split) if balanced else dict(budgets)
    return infer_auto_device_map(model, memory, no_split_module_classes=no_split)


def measure_peer(model, rows, budgets, *, balanced):
    begun = time.perf_counter()
    try:
        device_map = accelerate_map(model, budgets, balanced=balanced)
    except Exception as error:  # noqa: BLE001  # a crash of the peer is a result
        return {"crash": type(error).__name__}
    held, missing = bytes_by_device(rows, device_map)
    over = any(held.get(device, 0) > size for device, size in budgets.items())
    used = sum(size for device, size in held.items() if device not in {"cpu", "disk"})
    return {"used": used, "missing": missing, "over": over, "seconds": time.perf_counter() - begun}


def measure_ours(model, budgets):
    begun = time.perf_counter()
    try:
        plan = compile_model(model, max_memory=budgets)
    except PlanError as error:
        return {"crash": error.diagnostics[0].code}
    except Exception as error:  # noqa: BLE001  # a crash is counted, ours too
        return {"crash": type(error).__name__}
    seconds = time.perf_counter() - begun
    used = sum(a.weights + a.buffers for a in plan.ledger if a.device not in {"cpu", "disk"})
    off = sum(a.weights + a.buffers for a in plan.ledger) - used
    spilled = plan.outcome is not None and plan.outcome.objective == "accelerator-bytes"
    bound = int(plan.outcome.bound) if spilled else used + off
    status = plan.outcome.status if plan.outcome is not None else "none"
    return {"used": used, "off": off, "bound": bound, "status": status, "seconds": seconds}


def run(kind, out):
    try:
        model = build(kind)
    except Exception as error:  # noqa: BLE001  # types without a default model are noted
        out.write(json.dumps({"type": kind, "skipped": type(error).__name__}) + "\n")
        return
    rows = tensors(model)
    total = sum({key: nbytes for _, key, nbytes in rows}.values())
    for name, shares in BUDGETS.items():
        budgets = {i: int(share * total) for i, share in enumerate(shares)} | {"cpu": 1 << 50}
        row = {"type": kind, "budget": name, "total": total, "ours": measure_ours(model, budgets)}
        row["accelerate"] = measure_peer(model, rows, budgets, balanced=False)
        row["balanced"] = measure_peer(model, rows, budgets, balanced=True)
        out.write(json.dumps(row) + "\n")
        out.flush()


def invalid(result):
    return bool(result.get("missing")) or bool(result.get("over"))


def share(used, possible):
    """Return how much of what is possible is used; more than possible is an error of the bound."""
    return used / possible if possible else float(used == 0)


def table(rows):
    cases = [row for row in rows if "ours" in row]
    rows = [row for row in cases if "bound" in row["ours"]]
    lines = ["| | used / possible | worst | avoidable spills | crashes | without a place | over budget | s |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for name in ("accelerate", "balanced", "ours"):
        done = [(row, row[name]) for row in rows if "used" in row[name]]
        shares = [share(r["used"], row["ours"]["bound"]) for row, r in done if not invalid(r)]
        fits = [(row, r) for row, r in done if row["ours"]["off"] == 0]
        spills = sum(r["used"] < row["ours"]["used"] and not r.get("missing") for row, r in fits)
        cells = [
            name, f"{sum(shares) / max(len(shares), 1):.4f}", f"{min(shares, default=0):.2f}", spills,
            sum("crash" in row[name] for row in cases), sum(bool(r.get("missing")) for _, r in done),
            sum(bool(r.get("over")) for _, r in done),
            f"{sum(r['seconds'] for _, r in done) / max(len(done), 1):.3f}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join([f"{len(cases)} cases", *lines])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sample", type=int)
    parser.add_argument("--types", nargs="*")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    kinds = arguments.types or sorted(MODEL_MAPPING_NAMES)
    if arguments.sample:
        kinds = kinds[:: max(1, len(kinds) // arguments.sample)][: arguments.sample]
    done = set()
    if arguments.out.exists():
        done = {json.loads(line)["type"] for line in arguments.out.read_text().splitlines()}
    with arguments.out.open("a") as out:
        for kind in kinds:
            if kind not in done:
                run(kind, out)
    print(table([json.loads(line) for line in arguments.out.read_text().splitlines()]))


if __name__ == "__main__":
    main()

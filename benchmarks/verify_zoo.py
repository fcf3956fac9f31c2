"""Sweeps over transformers types: does a plan along our cuts run, and do accelerate's maps?

    python benchmarks/verify_zoo.py --into zoo.jsonl [--sample 40 --seed 0] [--only gpt2,t5]

Each type is built from its default config on the meta device, traced, and placed on two and on four
devices: at random along the cuts (the worst a planner could do), and by accelerate with and without the
model's own no-split list. Every plan is replayed. Results are appended one line a type, so a sweep that
was stopped goes on where it was; the table at the end covers everything in the file.
"""

from __future__ import annotations

import argparse
import importlib
import json
import random
import sys
import time
import warnings
from pathlib import Path

import torch
import transformers
from accelerate import infer_auto_device_map
from accelerate.utils import compute_module_sizes
from compile_plan.compiler.tracing import try_trace, verify_trace
from compile_plan.ir import Device, Diagnostics, Model, Plan, Unit

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from random_cuts import random_plan

FACTORIES = ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM", "AutoModelForImageTextToText", "AutoModel")
KINDS = ("ours", "accelerate", "accelerate, no list")


def build(name: str) -> torch.nn.Module:
    config = transformers.AutoConfig.for_model(name)
    for factory in (getattr(transformers, each) for each in FACTORIES):
        if type(config) in factory._model_mapping:  # noqa: SLF001  the library's own table
            with torch.device("meta"):
                return factory.from_config(config).eval()
    with torch.device("meta"):
        return class_for(type(config))(config).eval()


def class_for(config: type) -> type[torch.nn.Module]:
    """Find the model of a part (a vision tower, a text decoder), which the library lists nowhere."""
    module = importlib.import_module(config.__module__.replace(".configuration_", ".modeling_"))
    for kind in vars(module).values():
        if (
            isinstance(kind, type)
            and issubclass(kind, transformers.PreTrainedModel)
            and kind.config_class is config
            and "forward" in vars(kind)
        ):
            return kind
    raise LookupError("no model class")


def accelerate_plan(model: torch.nn.Module, devices: int, *, listed: bool) -> Plan:
    """Ask accelerate with a third more room than the weights need, shared out evenly."""
    share = int(compute_module_sizes(model)[""] * 4 / 3 / devices)
    classes = sorted(getattr(model, "_no_split_modules", None) or ()) if listed else None
    budgets = {**dict.fromkeys(range(devices), share), "cpu": 10**15}
    chosen = infer_auto_device_map(model, budgets, no_split_module_classes=classes)
    main = next((f"cuda:{d}" for d in chosen.values() if isinstance(d, int)), "cpu")
    units = []
    for path, device in chosen.items():
        away = device in ("cpu", "disk")
        units.append(Unit(path, device if away else f"cuda:{device}", main if away else f"cuda:{device}"))
    names = [*(f"cuda:{i}" for i in range(devices)), "cpu", "disk"]
    return Plan(model=Model("accelerate"), devices=tuple(Device(n, None) for n in names), units=tuple(units))


def examine(name: str) -> dict[str, object]:
    start = time.perf_counter()
    try:
        model = build(name)
    except Exception as error:  # noqa: BLE001  building runs foreign code
        return {"type": name, "skipped": f"{type(error).__name__}: {str(error).strip().splitlines()[0][:90]}"}
    diagnostics = Diagnostics()
    trace = try_trace(model, None, diagnostics, seq=32)
    if trace is None:
        found = next(iter(diagnostics))
        return {"type": name, "untraced": found.message, "why": " ".join(found.notes)[:160]}
    row: dict[str, object] = {"type": name, "modules": len(trace.tree), "listed": bool(
        getattr(model, "_no_split_modules", None))}  # fmt: skip
    for devices in (2, 4):
        plans = [random_plan(trace, devices, seed) for seed in range(3)]
        row[f"ours/{devices}"] = sum(len(verify_trace(plan, trace).diagnostics) for plan in plans)
        for kind, listed in (("accelerate", True), ("accelerate, no list", False)):
            try:
                plan = accelerate_plan(model, devices, listed=listed)
                found_here = verify_trace(plan, trace).diagnostics
                row[f"{kind}/{devices}"] = sum(d.severity == "error" for d in found_here)
            except Exception as error:  # noqa: BLE001  a crash is a result here
                row[f"{kind}/{devices}"] = f"{type(error).__name__}"
    row["seconds"] = round(time.perf_counter() - start, 2)
    return row


def examined(name: str) -> dict[str, object]:
    """Examine a type; what goes wrong in this program is a result too, and the sweep goes on."""
    try:
        return examine(name)
    except Exception as error:  # noqa: BLE001  shown in the table
        return {"type": name, "untraced": "the sweep failed", "why": f"{type(error).__name__}: {error}"[:160]}


def table(rows: list[dict[str, object]]) -> None:
    traced = [row for row in rows if "modules" in row]
    print(f"\n{len(rows)} types: {len(traced)} traced, {sum('untraced' in r for r in rows)} not traced, "
          f"{sum('skipped' in r for r in rows)} not built")  # fmt: skip
    print(f"{'types where devices meet':28} {'2 devices':>10} {'4 devices':>10}")
    for kind in KINDS:
        cells = [[row[f"{kind}/{n}"] for row in traced] for n in (2, 4)]
        bad = [sum(isinstance(cell, int) and cell > 0 for cell in column) for column in cells]
        crashed = [sum(isinstance(cell, str) for cell in column) for column in cells]
        print(f"{kind:28} {bad[0]:>10} {bad[1]:>10}   no map at all: {crashed[0]}, {crashed[1]}")
    for row in rows:
        if "untraced" in row:
            print(f"  {row['type']}: {row['untraced']} ({row['why']})")
        elif row.get("ours/2") or row.get("ours/4"):
            print(f"  {row['type']}: OURS MEETS {row}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--into", type=Path, default=Path("verify_zoo.jsonl"))
    parser.add_argument("--sample", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    names = sorted(transformers.CONFIG_MAPPING.keys())
    if chosen.only:
        names = chosen.only.split(",")
    elif chosen.sample:
        names = sorted(random.Random(chosen.seed).sample(names, chosen.sample))
    lines = chosen.into.read_text().splitlines() if chosen.into.exists() else []
    rows = {row["type"]: row for row in map(json.loads, lines)}
    with chosen.into.open("a") as sink:
        for name in names:
            if name not in rows:
                rows[name] = examined(name)
                sink.write(json.dumps(rows[name]) + "\n")
                sink.flush()
    table([rows[name] for name in names])


if __name__ == "__main__":
    main()

"""Sweeps over transformers types: does a plan along our cuts run, and do accelerate's maps?

    python benchmarks/verify_zoo.py --into zoo.jsonl [--sample 40 --seed 0] [--only gpt2,t5]

Each type is built from its default config on the meta device, traced, and placed on two and on four
devices: at random along the cuts (the worst a planner could do), and by accelerate with and without the
model's own no-split list. Every plan is replayed. Results are appended one line a type, so a sweep that
was stopped goes on where it was; the table at the end covers everything in the file.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
import warnings
from pathlib import Path

import torch
import transformers
from accelerate import infer_auto_device_map, init_empty_weights
from accelerate.utils import compute_module_sizes
from compile_plan.compiler.tracing import Trace, try_trace, verify_trace
from compile_plan.ir import Device, Diagnostics, Model, Plan, Unit

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from random_cuts import random_plan
from zoo_types import SETTINGS, classes_for

KINDS = ("ours", "accelerate", "accelerate, no list")


def build(name: str, *, buffers: bool = False) -> torch.nn.Module:
    """Build a type without weights from its default config, with the values of its buffers if asked."""
    config = transformers.AutoConfig.for_model(name, **SETTINGS.get(name, {}))
    failures: list[Exception] = []
    for kind in classes_for(config):
        try:
            with init_empty_weights(include_buffers=False) if buffers else torch.device("meta"):
                return kind._from_config(config).eval()  # noqa: SLF001  what the factories call
        except ImportError:
            raise
        except Exception as error:  # noqa: BLE001  building runs foreign code
            failures.append(error)
    raise failures[0] if failures else LookupError("no model class")


def traced(name: str, model: torch.nn.Module, found: Diagnostics) -> Trace | None:
    """Trace a type; what is only written in its buffers is lost on meta, so the second try has them."""
    trace = try_trace(model, None, found, seq=32)
    if trace is None and any(len(module._buffers) for module in model.modules()):  # noqa: SLF001
        again = Diagnostics()
        trace = try_trace(build(name, buffers=True), None, again, seq=32)
    return trace


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
    trace = traced(name, model, diagnostics)
    if trace is None:
        found = next(iter(diagnostics))
        return {"type": name, "untraced": found.message, "why": " ".join(found.notes)[:160]}
    listed_classes = bool(getattr(model, "_no_split_modules", None))
    row: dict[str, object] = {"type": name, "modules": len(trace.tree), "listed": listed_classes}
    row["notes"] = [found.code for found in diagnostics]
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

"""Models in inference mode on pretended accelerators: `python inference_runs.py`.

Prints one JSON object: for each layout, whether outputs in inference mode, and after it, were those of the
plain model.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import rows_runs
import torch
from compile_plan.compiler.loading import load_model
from compile_plan.ir import Device, Model, Plan, Unit

IDS = rows_runs.TOKENS
DEVICES = (*rows_runs.DEVICES, Device("cuda:1", None))
NAMES = {"cuda:0": "npu:0", "cuda:1": "npu:1"}
PARTS = ("model.layers.1", "model.layers.0.mlp.experts")


def layouts():
    """Yield layouts by name: all resident on two devices, layers streamed, experts by rows."""
    for other in ("cpu", "cuda:1"):
        units = (Unit(part, other, other) for part in PARTS)
        yield f"resident, {other}", Plan(Model("m"), DEVICES, units=(Unit("", "cuda:0", "cuda:0"), *units))
    for store in ("cpu", "disk"):
        units = (Unit(part, store, "cuda:0") for part in PARTS)
        yield f"streamed, {store}", Plan(Model("m"), DEVICES, units=(Unit("", "cuda:0", "cuda:0"), *units))
        yield f"rows, {store}", rows_runs.plan_of(store, "cuda:0")
        yield f"cached, {store}", rows_runs.plan_of(store, "cuda:0", cache=8 * rows_runs.ROW)
        yield f"in turns, {store}", rows_runs.plan_of(store, "cuda:0", streaming=4 * rows_runs.ROW)


def right(model, real, mode):
    with mode():
        same = torch.allclose(model(input_ids=IDS).logits, real(input_ids=IDS).logits, atol=1e-5)
        tokens = [one.generate(IDS, max_new_tokens=3, do_sample=False).tolist() for one in (model, real)]
    return same and tokens[0] == tokens[1]


def main():
    torch.set_num_threads(1)
    found = {}
    with tempfile.TemporaryDirectory() as name:
        real = rows_runs.built("mixtral")
        real.save_pretrained(Path(name), save_original_format=True)
        for layout, plan in layouts():
            with torch.device("meta"):
                model = rows_runs.KINDS["mixtral"]().eval()
            model.set_experts_implementation("eager")
            load_model(plan, model, name, devices=NAMES)
            modes = (torch.inference_mode, torch.no_grad, torch.inference_mode)
            found[layout] = [right(model, real, mode) for mode in modes]
    print(json.dumps(found))  # noqa: T201  the program's result


if __name__ == "__main__":
    main()

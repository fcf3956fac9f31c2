"""Random plans over pretended devices, really loaded and run: `python pretended_loads.py llama t5 ...`.

Prints one JSON object: for each model and plan what the replay of the traced forward says and what
happened: ``equal`` to the CPU's output, ``different``, or where devices met.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pretend_device
import torch
from compile_plan.compiler.loading import load_model, release_model
from compile_plan.compiler.tracing import trace_model, verify_trace
from compile_plan.ir import Device, Plan
from random_cuts import bad_plan, random_plan
from tiny_checkpoints import TINY, on_meta, output, save, tensors

NAMES = {f"cuda:{i}": f"npu:{i}" for i in range(pretend_device.COUNT)}


def some_from_disk(plan: Plan) -> Plan:
    """Let what is streamed to one of the devices come from the checkpoint's files."""
    units = [replace(u, store="disk") if (u.store, u.run) == ("cpu", "cuda:0") else u for u in plan.units]
    return replace(plan, units=tuple(units), devices=(*plan.devices, Device("disk", None)))


def outcome(tiny, plan: Plan, folder: Path, expected: torch.Tensor) -> str:
    try:
        model = load_model(plan, on_meta(tiny), folder, devices=NAMES)
        at_rest = [t.device for t in tensors(model)]
        results = [output(model, tiny) for _ in range(3)]
    except RuntimeError as error:
        if isinstance(error, pretend_device.DevicesMeetError) or "same device" in str(error):
            return f"meets: {error}"
        raise
    if any(r.device.type != "cpu" for r in results):
        return "the output is away"
    if not all(torch.allclose(r, expected, atol=1e-5) for r in results):  # torch has other kernels there
        return "different"
    if [t.device for t in tensors(model)] != at_rest:
        return "weights did not come back"
    release_model(model)
    return "equal"


def main() -> None:
    torch.set_num_threads(1)
    found = {}
    for name in sys.argv[1:]:
        tiny, rows = TINY[name], {}
        with tempfile.TemporaryDirectory() as folder:
            expected = output(save(tiny, Path(folder), **dict(tiny.options)), tiny)
            trace = trace_model(on_meta(tiny), tiny.inputs)
            plans = {
                f"{count} devices, seed {seed}": some_from_disk(random_plan(trace, count, seed, offload=True))
                for count in (2, 4)
                for seed in range(4)
            }
            plans |= {f"leaves, seed {seed}": bad_plan(trace, seed) for seed in range(3)}
            for title, plan in plans.items():
                said = "runs" if verify_trace(plan, trace).lawful else "meets"
                rows[title] = [said, outcome(tiny, plan, Path(folder), expected)]
        found[name] = rows
    print(json.dumps(found))  # noqa: T201  the program's result


if __name__ == "__main__":
    main()

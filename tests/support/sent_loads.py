"""Weights sent to pretended devices through small slots: `python sent_loads.py`.

Copies happen as late as a card may do them: when the slot they come from is to be filled again. Prints one
JSON object: for each way to get slots, whether every tensor has the bytes of the checkpoint.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pretend_device
import torch
from compile_plan.compiler.loading import jobs, load, load_model, reading, slots
from compile_plan.compiler.loading.streaming.lanes import DirectLane
from compile_plan.ir import Device, Model, Plan, Unit
from safetensors.torch import save_file
from torch import nn

SMALL = 4096
NAMES = {f"cuda:{i}": f"npu:{i}" for i in range(pretend_device.COUNT)}
WIDE = {"large": (70, 61), "small": (3,), "single": (), "empty": (0, 4), "exact": (32, 32)}


class Late:
    """A mark that copies what it stands for when somebody waits for it."""

    def __init__(self, pairs):
        self.pairs = list(pairs)

    def synchronize(self):
        DirectLane().copy(self.pairs, ())
        self.pairs.clear()


class LateLane(DirectLane):
    def copy(self, pairs, after):
        for mark in after:
            if mark is not None:
                mark.synchronize()
        return Late(pairs)


class Part(nn.Module):
    def __init__(self, dtype):
        super().__init__()
        for name, shape in WIDE.items():
            values = torch.randint(-100, 100, shape).to(dtype)
            self.register_parameter(name, nn.Parameter(values, requires_grad=False))


def build():
    torch.manual_seed(0)
    kinds = (torch.bfloat16, torch.float32, torch.int8, torch.float64, torch.float32, torch.float16)
    return nn.ModuleList(Part(kind) for kind in kinds)


def loaded(folder, dtype):
    stores = ("cuda:0", "cuda:1", "cpu", "cuda:3", "cuda:0", "cuda:1")
    units = tuple(Unit(str(i), store, store) for i, store in enumerate(stores))
    devices = tuple(Device(name, None) for name in (*NAMES, "cpu"))
    with torch.device("meta"):
        model = build()
    plan = Plan(Model("sent"), devices, units=units)
    return load_model(plan, model, folder, devices=NAMES, progress=False, dtype=dtype)


def same(real, model, dtype):
    pairs = zip(real.parameters(), model.parameters(), strict=True)
    wanted = ((a.to(dtype) if dtype and a.is_floating_point() else a, b) for a, b in pairs)
    return all(torch.equal(a, b.to("cpu")) and a.dtype == b.dtype for a, b in wanted)


def main() -> None:
    ahead = []
    usual = load.slots_ahead
    load.slots_ahead = lambda sizes: ahead.append(usual(sizes)) or ahead[-1]
    jobs.SLOT = SMALL
    slots.lane_to = lambda _device: LateLane()
    slots.sending_threads = reading.sending_threads = lambda: 3
    found = {}
    with tempfile.TemporaryDirectory() as name:
        real = build()
        save_file(real.state_dict(), Path(name) / "model.safetensors")
        for way, least in (("ahead", SMALL), ("when they are needed", 1 << 30)):
            slots.SLOT = least
            for dtype in (None, torch.bfloat16):
                ahead.clear()
                found[f"{way}, {dtype}"] = same(real, loaded(Path(name), dtype), dtype)
                assert [one is not None for one in ahead] == [way == "ahead"]
    print(json.dumps(found))  # noqa: T201  the program's result


if __name__ == "__main__":
    main()

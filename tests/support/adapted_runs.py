"""Adapters of PEFT beside streamed weights, on a pretended accelerator: `python adapted_runs.py`.

Prints one JSON object: for each store, and for adapters added before and after loading, ``equal`` where three
forwards gave what the plain model with the same adapters gives.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from pathlib import Path

import peft
import pretend_device
import torch
from compile_plan.compiler.loading import load_model, release_model
from compile_plan.ir import Device, Model, Plan, Unit
from tiny_checkpoints import TINY, on_meta, save

assert pretend_device.COUNT
DEVICES = (Device("cuda:0", None), Device("cpu", None), Device("disk", None))
NAMES = {"cuda:0": "npu:0"}
TOKENS = torch.arange(1, 9)[None]
tiny = TINY["llama"]


def plan(store):
    layers = (Unit(f"model.layers.{number}", store, "cuda:0") for number in range(2))
    return Plan(Model("llama"), DEVICES, units=(Unit("", "cuda:0", "cuda:0"), *layers))


def adapted(model):
    config = peft.LoraConfig(target_modules=["q_proj", "down_proj"], r=2)
    return peft.get_peft_model(model, config).eval()


def values(path, tensor):
    """The same numbers for the same adapter, wherever it is made."""
    generator = torch.Generator().manual_seed(sum(path.encode()))
    return torch.rand(tensor.shape, generator=generator) / 8


def filled(model):
    with torch.no_grad():
        for path, tensor in model.named_parameters():
            if "lora_" in path:
                tensor.copy_(values(path.removeprefix("base_model.model."), tensor))
    return model


def loaded(store, folder, when):
    if when == "after":
        return filled(adapted(load_model(plan(store), on_meta(tiny), folder, devices=NAMES)))

    def given(path, tensor):
        return values(path.removeprefix("base_model.model."), tensor) if "lora_" in path else None

    model = adapted(on_meta(tiny))
    return load_model(plan(store), model, folder, devices=NAMES, materialize=given)


def outcome(store, folder, when, expected):
    model = loaded(store, folder, when)
    for _ in range(3):
        if not torch.allclose(model(input_ids=TOKENS).logits, expected, atol=1e-5):
            return "different"
    inner = model if when == "before" else model.base_model.model
    release_model(inner)
    return "equal"


def main():
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    found = {}
    with tempfile.TemporaryDirectory() as name, torch.no_grad():
        folder = Path(name)
        expected = filled(adapted(save(tiny, folder, **dict(tiny.options))))(input_ids=TOKENS).logits
        for store in ("cpu", "disk"):
            found[store] = {when: outcome(store, folder, when, expected) for when in ("before", "after")}
    print(json.dumps(found))  # noqa: T201  the program's result


if __name__ == "__main__":
    main()

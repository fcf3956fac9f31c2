"""Adapters of PEFT on the weights of experts that are stored away from where they run.

`python adapted_experts.py` prints one JSON object: for each store, for whole stacks and rows, for adapters
that were added before and after loading, whether three forwards gave what the plain model with the same
adapters gives and left the weights where they are stored, and whether the model is right without them.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from pathlib import Path

import adapted_runs
import peft
import rows_runs
import torch
from compile_plan.compiler.loading import load_model
from compile_plan.ir import Model, Plan, Unit

IDS = rows_runs.TOKENS


def plan(store, *, by_rows):
    experts = (
        Unit(f"model.layers.{number}.mlp.experts", store, "cuda:0", by_rows=by_rows)
        for number in range(rows_runs.LAYERS)
    )
    return Plan(Model("mixture"), rows_runs.DEVICES, units=(Unit("", "cuda:0", "cuda:0"), *experts))


def adapted(model):
    names = ["experts.gate_up_proj", "experts.down_proj"]
    config = peft.LoraConfig(r=2, target_parameters=names, target_modules=[])
    return peft.get_peft_model(model, config).eval()


def loaded(folder, how, when):
    with torch.device("meta"):
        model = rows_runs.KINDS["mixtral"]().eval()
    model.set_experts_implementation("eager")
    if when == "after":
        return adapted_runs.filled(adapted(load_model(how, model, folder, devices=rows_runs.NAMES)))

    def given(path, tensor):
        inner = path.removeprefix("base_model.model.")
        return adapted_runs.values(inner, tensor) if "lora_" in path else None

    return load_model(how, adapted(model), folder, devices=rows_runs.NAMES, materialize=given)


def rests(model):
    weights = [value for name, value in model.named_parameters() if name.endswith(("up_proj", "down_proj"))]
    return len(weights) == 2 * rows_runs.LAYERS and all(value.device.type == "cpu" for value in weights)


def outcome(folder, how, when, expected, bare):
    model = loaded(folder, how, when)
    right = [
        torch.allclose(model(input_ids=IDS).logits, expected, atol=1e-5) and rests(model) for _ in range(3)
    ]
    if when == "after":
        inner = model.unload()
        right += [torch.allclose(inner(input_ids=IDS).logits, bare, atol=1e-5) for _ in range(2)]
    return right


def main():
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    found = {}
    with tempfile.TemporaryDirectory() as name, torch.no_grad():
        folder = Path(name)
        real = rows_runs.built("mixtral")
        real.save_pretrained(folder, save_original_format=True)
        bare = real(input_ids=IDS).logits
        expected = adapted_runs.filled(adapted(real))(input_ids=IDS).logits
        for store in ("cpu", "disk"):
            for by_rows in (False, True):
                for when in ("before", "after"):
                    how = plan(store, by_rows=by_rows)
                    case = f"{store}, {'rows' if by_rows else 'whole'}, {when}"
                    found[case] = outcome(folder, how, when, expected, bare)
    print(json.dumps(found))  # noqa: T201  the program's result


if __name__ == "__main__":
    main()

"""Quantised folders loaded where transformers alone cannot have them, on a pretended accelerator.

`python quantised_runs.py` prints one JSON object: for each method and place ``equal`` where three forwards
gave what transformers' own load gives on the host.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import tempfile
import warnings
from pathlib import Path

import pretend_device
import torch
import transformers as hf
from compile_plan.compiler import load_pretrained, runtime_report
from compile_plan.ir import Device, Model, Plan, Unit
from small_folders import write_quantised

assert pretend_device.COUNT
DEVICES = (Device("cuda:0", None), Device("cpu", None))
TOKENS = torch.arange(1, 9)[None]
PLACES = {
    "streamed": (Unit("model.layers.1", "cpu", "cuda:0"),),
    "card and host": (Unit("model.layers.1", "cpu", "cpu"),),
    "units of tensors": (  # as a plan made from the file's headers may have them
        Unit("model.layers.1.mlp.up_proj.weight", "cpu", "cuda:0"),
        Unit("model.layers.1.mlp.up_proj.weight_scale_inv", "cpu", "cuda:0"),
    ),
}


def torchao(folder):
    from torchao.quantization import Int8WeightOnlyConfig

    how = hf.TorchAoConfig(Int8WeightOnlyConfig())
    plain = write_quantised(folder / "plain", "fp8")
    said = json.loads((plain / "config.json").read_text())
    torch.manual_seed(0)
    said.pop("quantization_config")
    hf.LlamaForCausalLM(hf.LlamaConfig.from_dict(said)).save_pretrained(plain)
    model = hf.LlamaForCausalLM.from_pretrained(plain, quantization_config=how, device_map="cpu")
    model.save_pretrained(folder / "packed")
    return folder / "packed"


def outcome(folder, units, expected):
    plan = Plan(Model("quantised"), DEVICES, units=(Unit("", "cuda:0", "cuda:0"), *units))
    model = load_pretrained(folder, plan, devices={"cuda:0": "npu:0"})
    with torch.no_grad():
        for _ in range(3):
            found = model(input_ids=TOKENS).logits.float().cpu()
            if not torch.allclose(found, expected, atol=2e-2):  # in half precision
                return "different"
    if units[0].run == "cuda:0" and not runtime_report(model).sites:
        return "not streamed"
    return "equal"


def main():
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    hf.logging.set_verbosity_error()
    found = {}
    kinds = {"fp8": lambda folder: write_quantised(folder, "fp8"), "torchao": torchao}
    if importlib.util.find_spec("torchao") is None:
        kinds.pop("torchao")
    for name, write in kinds.items():
        with tempfile.TemporaryDirectory() as there:
            folder = write(Path(there))
            plain = hf.LlamaForCausalLM.from_pretrained(folder, device_map="cpu").eval()
            with torch.no_grad():
                expected = plain(input_ids=TOKENS).logits.float()
            places = PLACES if name == "fp8" else {"streamed": PLACES["streamed"]}
            found[name] = {title: outcome(folder, units, expected) for title, units in places.items()}
    print(json.dumps(found))  # noqa: T201  the program's result


if __name__ == "__main__":
    main()

"""Quantised weights at every place, on a pretended accelerator: `python packed_runs.py KIND...`.

Prints one JSON object: for each kind and place ``equal`` where three forwards gave what the model gave
before, or the codes of what was found before anything was read or changed.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from pathlib import Path

import pretend_device
import torch
from compile_plan.compiler import runtime_report
from compile_plan.compiler.loading import load_model, release_model
from compile_plan.ir import Device, Model, Plan, PlanError, Unit
from packed_tensors import Packed, Shifted
from safetensors.torch import save_file
from torch import nn

CARD = "npu:0"
DEVICES = (Device("cuda:0", None), Device("cpu", None), Device("disk", None))
PLACES = {
    "streamed": ("cpu", "cuda:0"),
    "resident": ("cuda:0", "cuda:0"),
    "host": ("cpu", "cpu"),
    "disk": ("disk", "cuda:0"),
}
WIDTH = 64
PLAIN = (torch.Tensor, nn.Parameter, pretend_device.There)
assert pretend_device.COUNT


def layers():
    torch.manual_seed(0)
    stack = (nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH)) for _ in range(3))
    return nn.Sequential(*stack).eval().requires_grad_(requires_grad=False)


def packed(kind):
    model = layers()
    for part in model.modules():
        if isinstance(part, nn.Linear):
            part.weight = nn.Parameter(kind.of(part.weight.data), requires_grad=False)
    return model


class Writing(nn.Module):
    """Computes with a weight and makes it larger, as an average that is updated."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        result = self.inner(x)
        self.inner[0].weight.mul_(1.5)
        return result


def written():
    model = packed(Packed)
    return nn.Sequential(*(Writing(layer) for layer in model))


def torchao(config):
    from torchao import quantization

    model = layers()
    quantization.quantize_(model, getattr(quantization, config)())
    return model


def quanto(name):
    from optimum import quanto as library

    model = layers()
    library.quantize(model, weights=getattr(library, name))
    library.freeze(model)
    return model


def bitsandbytes(bits):
    import bitsandbytes.nn as library

    model = layers()
    for layer in model:
        for name in ("0", "2"):
            old = getattr(layer, name)
            new = (
                library.Linear4bit(WIDTH, WIDTH, compute_dtype=torch.float32, quant_type="nf4")
                if bits == 4
                else library.Linear8bitLt(WIDTH, WIDTH, has_fp16_weights=False)
            )
            new.load_state_dict(old.state_dict())
            setattr(layer, name, new.to("cpu").requires_grad_(requires_grad=False))
    return model.eval()


def gguf():
    """Blocks of eight bits, as transformers keeps a GGUF file's tensors from 5.24 on."""
    import numpy as np
    from gguf import GGMLQuantizationType, quantize
    from transformers.integrations.gguf import kernels, utils

    kernels._gguf_kernel = False  # no kernel is fetched
    model = layers()
    for layer in model:
        for name in ("0", "2"):
            old, kind = getattr(layer, name), GGMLQuantizationType.Q8_0
            new = utils.GgufLinear(WIDTH, WIDTH, int(kind), bias=True)
            new.weight.data = torch.from_numpy(quantize(np.asarray(old.weight), kind))
            new.bias.data = old.bias.data
            setattr(layer, name, new)
    return model


def fp8():
    """Eight-bit floats with a scale for each block, as transformers has them; its kernels want a card."""
    from transformers.integrations import finegrained_fp8 as library

    def multiply(x, weight, scale, block_size, bias, *_, **_options):  # by place or by name
        rows = scale.repeat_interleave(block_size[0], 0).repeat_interleave(block_size[1], 1)
        return nn.functional.linear(x, weight.to(x.dtype) * rows, bias)

    library.fp8_linear = multiply
    model = layers()
    for layer in model:
        for name in ("0", "2"):
            old = getattr(layer, name)
            new = library.FP8Linear(WIDTH, WIDTH, (WIDTH // 2, WIDTH // 2), has_bias=True)
            new.weight.data = old.weight.data.to(torch.float8_e4m3fn)
            new.weight_scale_inv.data = torch.tensor([[0.5, 1.0], [2.0, 4.0]])
            new.bias.data = old.bias.data
            setattr(layer, name, new.requires_grad_(requires_grad=False))
    return model


KINDS = {
    "fp8": fp8,
    "hand-made": lambda: packed(Packed),
    "nested": lambda: packed(Shifted),
    "written to": written,
    "torchao int8": lambda: torchao("Int8WeightOnlyConfig"),
    "torchao float8": lambda: torchao("Float8WeightOnlyConfig"),
    "torchao dynamic int8": lambda: torchao("Int8DynamicActivationInt8WeightConfig"),
    "quanto int8": lambda: quanto("qint8"),
    "quanto int4": lambda: quanto("qint4"),
    "quanto float8": lambda: quanto("qfloat8"),
    "bitsandbytes 4": lambda: bitsandbytes(4),
    "bitsandbytes 8": lambda: bitsandbytes(8),
    "gguf": gguf,
}


def placed(store, run):
    units = (Unit("0", "cuda:0", "cuda:0"), Unit("1", store, run), Unit("2", store, run))
    if (store, run) == ("cpu", "cpu"):
        units = (Unit("", "cpu", "cpu"),)
    return Plan(Model("packed"), DEVICES, units=units)


def outcome(name, place, folder, *, own=False):
    """Try one place; with ``own`` values, the checkpoint's are those of the model."""
    x = torch.linspace(-1, 1, 12 * WIDTH).view(12, WIDTH)
    with torch.no_grad():
        real, model = KINDS[name](), KINDS[name]()
        expected = real(x)
        kinds = classes(model)
        checkpoint = folder if place == "disk" or own else None
        try:
            load_model(placed(*PLACES[place]), model, checkpoint, devices={"cuda:0": CARD})
        except PlanError as error:
            same = torch.equal(model(x), expected) and kinds == classes(model)
            codes = sorted({found.rule.code for found in error.diagnostics})
            return " ".join(codes) if same else "refused and changed"
        given = x.to(CARD) if place == "resident" else x  # one device: no hooks
        for _ in range(3):
            if not torch.allclose(model(given).cpu(), expected, atol=1e-5):
                return "different"
            expected = real(x)
        if place == "streamed":
            counted(model)
            around = torch.compile(model, backend="eager")
            if name == "hand-made" and not torch.allclose(around(given), expected, atol=1e-5):
                return "different when compiled"
        release_model(model)
    return "equal" if kinds == classes(model) else "of another class"


def classes(model):
    """The classes of the weights, without what the pretended device makes of plain ones."""
    return [None if type(one) in PLAIN else type(one).__name__ for one in model.parameters()]


def counted(model):
    """The bytes that moved are those of packed numbers and scales, and all are at rest again."""
    stream = model._compile_plan_execution.stream
    report = runtime_report(model)
    held = sum(leaf.rest.nbytes for site in stream.sites for one in site.streamed for leaf in one.leaves)
    assert sum(site.nbytes for site in report.sites) == 3 * held, (report, held)
    assert {one.rest.device.type for site in stream.sites for one in site.streamed} == {"cpu"}
    assert stream.supply.held.total() == 0


def main():
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        save_file(layers().state_dict(), Path(folder) / "model.safetensors")
        for name in sys.argv[1:]:
            found[name] = {place: outcome(name, place, Path(folder)) for place in PLACES}
        for name in {"fp8", "gguf"} & found.keys():  # plain tensors: they are read from files, too
            save_file(KINDS[name]().state_dict(), Path(folder) / "model.safetensors")
            (Path(folder) / "config.json").write_text('{"quantization_config": {"quant_method": "fp8"}}')
            places = {place: outcome(name, place, Path(folder), own=True) for place in PLACES}
            found[f"{name} from files"] = places
    print(json.dumps(found))  # noqa: T201  the program's result


if __name__ == "__main__":
    main()

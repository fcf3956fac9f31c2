"""Modules that do more than compute, loaded on a pretended device and run: `python pretended_modules.py`.

Prints one JSON object: for each module and each way to place it what happened in three forwards.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings

import pretend_device
import torch
from compile_plan.compiler.loading import load_model, release_model
from compile_plan.ir import Unit
from safetensors.torch import save_file
from tiny_checkpoints import plan
from torch import nn
from torch.nn.utils import prune
from writing_models import KINDS, Aside, Three

PLACES = {"streamed": ("cpu", "cuda:0"), "disk": ("disk", "cuda:0"), "resident": ("cuda:0", "cuda:0")}
X = torch.arange(32.0).view(2, 16) / 32


class Constants(nn.Module):
    """Plain attributes: one of its own, and one that is a parameter elsewhere."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 16)
        self.ones = torch.ones(16)
        self.number = torch.tensor(2.0)
        self.__dict__["bias"] = self.linear.bias

    def forward(self, x):
        return self.linear(x) * self.number + self.ones + self.bias


class Normed(nn.Module):
    """Weights that are attributes, made from others by a hook before each forward."""

    def __init__(self):
        super().__init__()
        self.weight = nn.utils.weight_norm(nn.Linear(16, 16))
        self.spectral = nn.utils.spectral_norm(nn.Linear(16, 16))
        self.pruned = prune.identity(nn.Linear(16, 16), "weight")

    def forward(self, x):
        return self.pruned(self.spectral(self.weight(x)))


class Transformed(nn.Module):
    """Calls its parts in function transforms."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x):
        x = torch.vmap(self.first)(x)
        return torch.func.functional_call(self.second, dict(self.second.named_parameters()), x)


CASES = {kind.__name__: lambda kind=kind: Three(kind) for kind in KINDS}
CASES |= {kind.__name__: kind for kind in (Aside, Constants, Normed, Transformed)}


def outcome(build, store: str, run: str, folder: str) -> str:
    torch.manual_seed(0)
    real = build()
    save_file(
        {name: value.clone() for name, value in real.state_dict().items()}, f"{folder}/model.safetensors"
    )
    with torch.device("meta"):
        model = build()
    x = X.to("npu:0") if store == run else X  # one device: no hooks
    try:
        load_model(plan(Unit("", store, run)), model, folder, devices={"cuda:0": "npu:0"})
        with torch.no_grad():
            for _ in range(3):
                if not torch.allclose(model(x).cpu(), real(X), atol=1e-5):
                    return "different"
    except pretend_device.DevicesMeetError as error:
        return f"meets: {error}"
    release_model(model)
    rests = [*model.parameters(), *model.buffers()]
    rests += [part.weight for part in model.modules() if isinstance(part, nn.Linear)]
    at_rest = {tensor.device.type for tensor in rests}
    return "equal" if at_rest == {"npu" if store == run else "cpu"} else f"weights rest on {at_rest}"


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # two of the hooks are deprecated
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, build in CASES.items():
            found[name] = {title: outcome(build, *place, folder) for title, place in PLACES.items()}
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()

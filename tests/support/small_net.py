"""A small torch model with ties, buffers and nesting, its checkpoint in two shards, and how to load it."""

from __future__ import annotations

import json
import threading

import pytest
import torch
from compile_plan.compiler.loading import load_model
from compile_plan.ir import PlanError, Unit
from safetensors.torch import save_file
from torch import nn

ON_CPU = Unit("", "cpu", "cpu")
ON_DISK = Unit("", "disk", "cpu")


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)
        self.register_buffer("scale", torch.full((width,), 0.5))

    def forward(self, x):
        return x + self.scale * self.down(torch.relu(self.up(x)))


class Rope(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.width = width
        self.register_buffer("angles", torch.arange(width) / width, persistent=False)

    def forward(self, x):
        return x * self.angles.cos().to(x.dtype)


class Net(nn.Module):
    def __init__(self, layers=3, width=8, rope=Rope):
        super().__init__()
        self.embed = nn.Embedding(16, width)
        self.rope = rope(width)
        self.layers = nn.ModuleList(Block(width) for _ in range(layers))
        self.head = nn.Linear(width, 16, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        x = self.rope(self.embed(ids))
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


IDS = torch.arange(6)[None]


def meta(**options):
    with torch.device("meta"):
        return Net(**options)


def stored(model):
    return {k: v.contiguous() for k, v in model.state_dict().items() if k != "head.weight"}


def random_net():
    torch.manual_seed(0)
    return Net()


def save_in_two_shards(model, tmp_path):
    """Write two shards and their index; returns the folder."""
    tensors = list(stored(model).items())
    shards = {"a.safetensors": dict(tensors[:6]), "b.safetensors": dict(tensors[6:])}
    weight_map = {}
    for name, part in shards.items():
        save_file(part, tmp_path / name)
        weight_map |= dict.fromkeys(part, name)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return tmp_path


def refused(*args, **options):
    """Load, expecting to be refused; returns the diagnostics by code."""
    model = args[1]
    with pytest.raises(PlanError) as caught:
        load_model(*args, **options)
    assert all(tensor.is_meta for tensor in model.parameters())
    assert not [t for t in threading.enumerate() if t.name.startswith("compile-plan-read")]
    return {diagnostic.code: diagnostic for diagnostic in caught.value.diagnostics}


def everything(diagnostic):
    return "\n".join((diagnostic.message, *diagnostic.notes))

"""Tensors that only the constructor of a module above theirs makes."""

from __future__ import annotations

import pytest
import torch
from compile_plan.compiler import compile_plan, load_pretrained
from compile_plan.ir import Device, Model, Plan, Unit
from torch import nn

transformers = pytest.importorskip("transformers")


def test_attributes_are_made_by_the_constructor_of_a_module_above(tmp_path):
    """The convolutions of Mimi keep numbers they compute from buffers, and not what they were built from."""
    small = {"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 32, "num_filters": 16}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "codebook_size": 16}
    books = {
        "num_quantizers": 2,
        "num_semantic_quantizers": 1,
        "codebook_dim": 8,
        "upsampling_ratios": [2, 2],
    }
    config = transformers.MimiConfig(
        **small, **heads, **books, vector_quantization_hidden_dimension=8, upsample_groups=32
    )
    torch.manual_seed(0)
    real = transformers.MimiModel(config).eval()
    real.save_pretrained(tmp_path)
    plan = compile_plan(tmp_path, max_memory={"cpu": "1GiB"})
    assert sum(plan.tree.nbytes) >= sum(p.nbytes for p in real.parameters())
    model = load_pretrained(tmp_path, plan)
    convolutions = [path for path, part in real.named_modules() if type(part).__name__ == "MimiConv1d"]
    assert convolutions
    for path in convolutions:
        mine, theirs = model.get_submodule(path), real.get_submodule(path)
        assert torch.equal(mine.padding_left, theirs.padding_left)
    assert torch.equal(model(torch.ones(1, 1, 64)).audio_codes, real(torch.ones(1, 1, 64)).audio_codes)


class Ramp(nn.Module):
    """Shows nothing of what it was built from."""

    def __init__(self, length: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(length, dtype=torch.bfloat16))
        self.register_buffer("steps", torch.arange(length) / 8, persistent=False)
        self.ends = self.steps[:1] + length


class Ramps(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.width = width
        self.parts = nn.ModuleList(Ramp(number + width) for number in range(2))


def test_buffers_are_made_by_the_constructor_of_a_module_above(tmp_path):
    from compile_plan.compiler import load_model
    from safetensors.torch import save_file

    real = Ramps(3)
    save_file(real.state_dict(), tmp_path / "model.safetensors")
    with torch.device("meta"):
        model = Ramps(3)
    everything = Plan(Model("ramps"), (Device("cpu", None),), units=(Unit("", "cpu", "cpu"),))
    load_model(everything, model, tmp_path)
    for mine, theirs in zip(model.parts, real.parts, strict=True):
        assert torch.equal(mine.steps, theirs.steps)
        assert torch.equal(mine.ends, theirs.ends)

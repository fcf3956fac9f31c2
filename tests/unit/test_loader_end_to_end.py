"""From a source through the command to a plan file, and from there to a model that computes the same."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from command import run_command
from compile_plan.backends import read_plan
from compile_plan.compiler import load_model
from rounding import same_outputs
from safetensors.torch import save_model
from tiny_checkpoints import TINY, on_meta, output, save, tensors

EXAMPLE = Path(__file__).parents[2] / "examples" / "decoder.py"
DEVICES = {"cuda:0": "cpu", "cuda:1": "cpu"}
IDS = torch.arange(12)[None]


def tiny_decoder():
    spec = importlib.util.spec_from_file_location("example_decoder", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.tiny()


def compiled(folder, source, memory, form):
    done = run_command([str(source), "--memory", memory, "-o", f"plan.{form}"], cwd=folder)
    assert done.code == 0, done.err
    return folder / f"plan.{form}"


@pytest.mark.parametrize("form", ["plan", "msgpack"])
@pytest.mark.parametrize("memory", ["cpu=1GiB", "cuda:0=400KiB,cuda:1=200KiB,cpu=300KiB,disk=1GiB"])
def test_a_script_becomes_a_plan_and_the_plan_a_model(tmp_path, memory, form):
    torch.manual_seed(0)
    real = tiny_decoder().eval()
    save_model(real, tmp_path / "model.safetensors")
    path = compiled(tmp_path, f"{EXAMPLE}:tiny", memory, form)
    with torch.device("meta"):
        model = tiny_decoder().eval()
    model = load_model(
        path,
        model,
        tmp_path / "model.safetensors",
        devices=DEVICES,
        materialize=lambda _, mask: torch.ones(mask.shape, dtype=torch.bool).tril(),
    )
    assert not any(tensor.is_meta for tensor in tensors(model))
    with torch.no_grad():
        assert same_outputs(model(IDS), real(IDS))


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen2"])
def test_a_checkpoint_becomes_a_plan_and_the_plan_a_model(tmp_path, name):
    tiny = TINY[name]
    real = save(tiny, tmp_path, max_shard_size="40KB")
    nbytes = sum({id(t): t.nbytes for t in tensors(real)}.values())
    memory = f"cuda:0={nbytes * 2 // 3},cpu={nbytes * 2 // 3},disk=1GiB"
    path = compiled(tmp_path, tmp_path, memory, "msgpack")
    assert len({unit.store for unit in read_plan(path).units}) > 1
    model = load_model(path, on_meta(tiny), tmp_path, devices=DEVICES)
    assert same_outputs(output(model, tiny), output(real, tiny))

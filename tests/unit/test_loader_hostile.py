"""Loads nobody plans for: twice, over real values, interrupted, from folders with too much in them."""

from __future__ import annotations

import gc
import os
import signal
import threading
from pathlib import Path

import pytest
import torch
from compile_plan.compiler.loading import load_model, release_model
from compile_plan.compiler.sources.live import lower_model
from compile_plan.ir import Model, Plan, PlanError, Unit
from held_files import held
from rounding import same_outputs
from safetensors.torch import save_file
from small_net import (
    IDS,
    ON_CPU,
    ON_DISK,
    Net,
    meta,
    random_net,
    refused,
    save_in_two_shards,
    stored,
)
from tiny_checkpoints import DEVICES, plan
from torch import nn

MIXED = (ON_CPU, Unit("layers.1", "disk", "cpu"))


@pytest.fixture(name="real")
def _real():
    return random_net()


@pytest.fixture(name="folder")
def _folder(real, tmp_path):
    return save_in_two_shards(real, tmp_path)


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("units", [(ON_CPU,), (ON_DISK,), MIXED])
def test_loading_twice_is_loading_once(real, folder, units, mapped):
    model = meta()
    for _ in range(2):
        load_model(plan(*units), model, folder, map_memory=mapped)
        assert same_outputs(model(IDS), real(IDS))
    hooks = sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())
    load_model(plan(*units), model, folder, map_memory=mapped)
    assert hooks == sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())


def test_one_plan_after_another_is_the_last(real, folder):
    model = Net()
    for units in [(ON_DISK,), (ON_CPU,), MIXED, (ON_CPU,)]:
        load_model(plan(*units), model, folder)
        assert same_outputs(model(IDS), real(IDS))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_load_that_is_refused_leaves_a_running_model_as_it_was(real, folder):
    model = load_model(plan(*MIXED), meta(), folder)
    tree = lower_model(meta(layers=4))
    with pytest.raises(PlanError):
        load_model(Plan(Model("other", tree.digest), DEVICES, units=(ON_CPU,), tree=tree), model, folder)
    assert same_outputs(model(IDS), real(IDS))


def test_files_beside_the_shards_are_left_alone(real, folder):
    (folder / "pytorch_model.bin").write_bytes(b"not read")
    (folder / "optimizer.pt").write_bytes(b"not read")
    assert same_outputs(load_model(plan(ON_CPU), meta(), folder)(IDS), real(IDS))


def test_a_folder_that_is_not_ours_to_write_is_enough(folder):
    for path in (*folder.iterdir(), folder):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        before = sorted(folder.iterdir())
        model = load_model(plan(*MIXED), meta(), folder, dtype=torch.bfloat16)
        model(IDS)
        assert sorted(folder.iterdir()) == before
    finally:
        folder.chmod(0o755)


def test_tied_tensors_stored_twice_with_one_value_are_tied(real, tmp_path):
    tensors = stored(real)
    save_file({**tensors, "head.weight": tensors["embed.weight"].clone()}, tmp_path / "model.safetensors")
    model = load_model(plan(ON_CPU), meta(), tmp_path)
    assert model.head.weight is model.embed.weight
    assert same_outputs(model(IDS), real(IDS))


@pytest.mark.parametrize("units", [(ON_CPU,), (ON_DISK,)])
def test_tied_tensors_stored_twice_with_different_values_are_refused(real, tmp_path, units):
    tensors = stored(real)
    other = tensors["embed.weight"].clone()
    other.view(-1)[-1] += 1
    save_file({**tensors, "head.weight": other}, tmp_path / "model.safetensors")
    found = refused(plan(*units), meta(), tmp_path)
    assert "`embed.weight` and `head.weight`" in found["tied-tensors-differ"].message


def test_a_half_precision_checkpoint_fills_a_full_precision_model(real, tmp_path):
    half = {name: value.to(torch.bfloat16) for name, value in stored(real).items()}
    save_file(half, tmp_path / "model.safetensors")
    for units in [(ON_CPU,), (ON_DISK,), MIXED]:
        model = load_model(plan(*units), meta(), tmp_path)
        expected = random_net()
        expected.load_state_dict(half, strict=False)
        assert same_outputs(model(IDS), expected(IDS))


def test_tensors_without_elements_are_loaded(tmp_path):
    class Hollow(nn.Module):
        def __init__(self):
            super().__init__()
            self.none = nn.Parameter(torch.zeros(0, 4))
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x):
            return torch.cat([x, self.none]) * self.scale

    save_file({"none": torch.zeros(0, 4), "scale": torch.tensor(3.0)}, tmp_path / "model.safetensors")
    for units in [(ON_CPU,), (ON_DISK,)]:
        for mapped in (True, False):
            with torch.device("meta"):
                model = Hollow()
            load_model(plan(*units), model, tmp_path, map_memory=mapped)
            assert same_outputs(model(torch.ones(2, 4)), torch.full((2, 4), 3.0))


@pytest.fixture(name="interruptible")
def _interruptible():
    """Let SIGINT interrupt even where the shell that started the tests ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_control_c_while_reading_ends_threads_and_leaves_the_model(folder, monkeypatch):
    read, main, sent = os.preadv, threading.get_ident(), []

    def interrupting(descriptor, buffers, offset):
        if not sent:
            sent.append(signal.pthread_kill(main, signal.SIGINT))
        return read(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", interrupting)
    model = meta()
    with pytest.raises(KeyboardInterrupt):
        load_model(plan(ON_CPU), model, folder, map_memory=False)
    assert all(tensor.is_meta for tensor in model.parameters())
    assert not [t for t in threading.enumerate() if t.name.startswith("compile-plan-read")]
    assert not held(folder)


def test_a_released_and_dropped_model_gives_its_files_back(folder):
    model = load_model(plan(*MIXED), meta(), folder)
    model(IDS)
    assert held(folder)
    release_model(model)
    del model
    gc.collect()
    assert not held(folder)


def test_a_converted_model_holds_nothing_more_between_forwards(folder):
    model = load_model(plan(ON_DISK), meta(), folder, dtype=torch.bfloat16)
    model(IDS)
    stream = model._compile_plan_execution.stream
    assert stream.supply.held.total() == 0
    assert all(one.users == 0 for site in stream.sites for one in site.streamed)
    for shard in ("a.safetensors", "b.safetensors"):
        assert str(folder / shard) in Path("/proc/self/maps").read_text()
    release_model(model)


def test_what_is_stored_singly_beside_its_shards_is_one_checkpoint(real, folder):
    save_file(stored(real), folder / "model.safetensors")
    assert same_outputs(load_model(plan(ON_CPU), meta(), folder)(IDS), real(IDS))

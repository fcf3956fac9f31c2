"""What a forward writes to streamed tensors, or puts in their place, is there in the next forward.

So is what modules hold besides parameters and buffers. On this machine a tensor on disk whose dtype
changes is streamed; `test_loader_devices` has the same on pretended accelerators.
"""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from compile_plan.compiler.loading import load_model, release_model
from compile_plan.ir import PlanError, Unit
from rounding import same_outputs
from safetensors.torch import load_file, save_file
from tiny_checkpoints import plan
from torch import nn
from torch.nn.utils import prune
from writing_models import KINDS, Aside, GivenMemory, InPlace, Replaced, Shared, Three

ON_DISK = Unit("", "disk", "cpu")
X = torch.arange(32.0).view(2, 16) / 32


def pair(build, folder):
    """Return a model in double precision, and its twin on disk in single precision."""
    torch.manual_seed(0)
    real = build()
    tensors = real.state_dict()
    save_file({k: v.clone() for k, v in tensors.items()}, folder / "model.safetensors")
    with torch.device("meta"):
        model = build()
    load_model(plan(ON_DISK), model, folder, dtype="float64")
    return real.double(), model


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("kind", [*KINDS, GivenMemory])
def test_three_forwards_are_those_of_the_plain_model(kind, mode, tmp_path):
    real, model = pair(lambda: Three(kind), tmp_path)
    before = load_file(tmp_path / "model.safetensors")
    with mode():
        for _ in range(3):
            assert same_outputs(model(X.double()), real(X.double()))
    assert all(
        same_outputs(a.double(), b.double()) for a, b in zip(model.buffers(), real.buffers(), strict=True)
    )
    after = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [name for name, _ in model.named_buffers()] == [name for name, _ in real.named_buffers()]


@pytest.mark.parametrize("kind", [*KINDS, GivenMemory])
def test_what_was_written_stays_when_the_hooks_go(kind, tmp_path):
    real, model = pair(lambda: Three(kind), tmp_path)
    with torch.no_grad():
        for _ in range(2):
            assert same_outputs(model(X.double()), real(X.double()))
        release_model(model)
        assert same_outputs(model.double()(X.double()), real(X.double()))


def test_what_was_prepared_before_a_write_is_not_used(tmp_path):
    real, model = pair(Aside, tmp_path)
    with torch.no_grad():
        for _ in range(3):
            assert same_outputs(model(X.double()), real(X.double()))


def test_a_tie_that_a_forward_cuts_is_cut(tmp_path):
    torch.manual_seed(0)
    real = Shared()
    tensors = {k: v for k, v in real.state_dict().items() if k != "layers.1.mean"}
    save_file(tensors, tmp_path / "model.safetensors")
    with torch.device("meta"):
        model = Shared()
    load_model(plan(ON_DISK), model, tmp_path, dtype="float64")
    real = real.double()
    with torch.no_grad():
        for _ in range(3):
            assert same_outputs(model(X.double()), real(X.double()))
    assert model.layers[0].mean is not model.layers[1].mean


def test_what_nobody_writes_to_is_not_kept_in_memory(tmp_path):
    _, model = pair(lambda: Three(InPlace), tmp_path)
    with torch.no_grad():
        model(X.double())
    assert {p.dtype for p in model.parameters()} == {torch.float32}  # still the file's bytes
    assert {b.dtype for b in model.buffers()} == {torch.float64}


def test_functional_calls_use_what_they_are_given_and_leave_nothing(tmp_path):
    real, model = pair(lambda: Three(Replaced), tmp_path)
    given = {name: torch.zeros_like(value) for name, value in real.named_parameters()}
    given |= {name: value + 1 for name, value in real.named_buffers()}
    with torch.no_grad():
        expected = torch.func.functional_call(real, dict(given), X.double())
        assert same_outputs(torch.func.functional_call(model, dict(given), X.double()), expected)
        assert same_outputs(model(X.double()), real(X.double()))


def test_a_streamed_model_compiled_after_loading_computes_the_same(tmp_path):
    real, model = pair(lambda: Three(InPlace), tmp_path)
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        for _ in range(3):
            assert same_outputs(compiled(X.double()), real(X.double()))


@pytest.mark.parametrize("copied", [copy.deepcopy, pickle.dumps])
def test_a_streamed_model_is_not_copied_before_it_is_released(copied, tmp_path):
    real, model = pair(lambda: Three(InPlace), tmp_path)
    with pytest.raises(PlanError) as caught:
        copied(model)
    assert [found.code for found in caught.value.diagnostics] == ["copied-while-streaming"]
    release_model(model)
    copied(model)
    with torch.no_grad():
        assert same_outputs(copy.deepcopy(model).double()(X.double()), real(X.double()))


def test_a_model_whose_arguments_move_is_copied_with_its_hooks(tmp_path):
    torch.manual_seed(0)
    real = Three(InPlace)
    save_file(real.state_dict(), tmp_path / "model.safetensors")
    units = (
        Unit("layers.0", "cpu", "cpu"),
        Unit("layers.1", "cuda:0", "cuda:0"),
        Unit("layers.2", "cpu", "cpu"),
    )
    model = load_model(plan(*units), Three(InPlace), tmp_path, devices={"cuda:0": "cpu:0"})
    twin = pickle.loads(pickle.dumps(copy.deepcopy(model)))  # noqa: S301  # of our own making
    release_model(model)
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(layer._forward_pre_hooks for layer in twin.layers)
    with torch.no_grad():
        assert same_outputs(twin(X), real(X))
        assert not same_outputs(model(X), twin(X))  # each has its own running mean
    release_model(twin)
    assert not any(module._forward_pre_hooks for module in twin.modules())


class Attributes(nn.Module):
    """A weight that a hook makes from others, a constant, and a parameter under a second name."""

    def __init__(self):
        super().__init__()
        self.normed = nn.utils.weight_norm(nn.Linear(16, 16))
        self.spectral = nn.utils.spectral_norm(nn.Linear(16, 16))
        self.pruned = prune.identity(nn.Linear(16, 16), "weight")
        self.ones = torch.ones(16)
        self.__dict__["again"] = self.pruned.bias

    def forward(self, x):
        return self.pruned(self.spectral(self.normed(x))) + self.ones + self.again


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("store", ["cpu", "disk"])
@pytest.mark.parametrize("meta", [True, False])
def test_plain_attributes_are_there_and_are_what_they_were_made_from(store, meta, tmp_path):
    torch.manual_seed(0)
    real = Attributes()
    save_file({k: v.clone() for k, v in real.state_dict().items()}, tmp_path / "model.safetensors")
    with torch.device("meta" if meta else "cpu"):
        model = Attributes()
    before = {name: value.clone() for name, value in real.named_buffers()}
    load_model(plan(Unit("", store, "cpu")), model, tmp_path)
    assert same_outputs(model.normed.weight, real.normed.weight)
    assert torch.equal(model.pruned.weight, real.pruned.weight)
    assert model.again is model.pruned.bias
    assert all(torch.equal(before[name], value) for name, value in model.named_buffers())
    with torch.no_grad():
        for _ in range(2):
            assert same_outputs(model(X), real(X))

"""Models as people have them: compiled, wrapped, hooked, in training, loaded, with shared modules."""

from __future__ import annotations

import hashlib

import pytest
import torch
from compile_plan.compiler import compile_model, verify_plan
from compile_plan.compiler.tracing import cut_rules, trace_model, try_trace
from compile_plan.ir import Atomic, Diagnostics, Split
from small_models import small_model
from tiny_modules import Chain, Residual, Stack
from torch import nn

X = torch.ones(2, 4)


def fingerprint(model: nn.Module) -> str:
    """Hash every value, identity and hook a trace could have changed."""
    found = hashlib.sha256()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        found.update(f"{name} {id(tensor)} {tensor.requires_grad} {tensor.device}".encode())
        found.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    for name, module in model.named_modules():
        hooks = (*module._forward_hooks, *module._forward_pre_hooks)
        found.update(f"{name} {id(module)} {module.training} {hooks} {sorted(vars(module))}".encode())
    return found.hexdigest()


@pytest.mark.parametrize("name", ["gpt2", "bert", "whisper"])
def test_a_loaded_model_is_the_same_after_planning_and_verifying(name):
    model = small_model(name, device="cpu").train()
    before = fingerprint(model)
    random_state = torch.random.get_rng_state()
    plan = compile_model(model, max_memory={0: "1GiB", "cpu": "1GiB"}, batch=2, seq=8)
    verify_plan(plan, model)
    assert fingerprint(model) == before
    assert torch.equal(torch.random.get_rng_state(), random_state)


def test_a_forward_that_raises_leaves_the_model_alone():
    class Raising(Chain):
        def forward(self, x):
            self.first(x)
            message = "not today"
            raise ValueError(message)

    model, diagnostics = Stack(Raising, 2), Diagnostics()
    before = fingerprint(model)
    assert try_trace(model, X, diagnostics) is None
    (found,) = diagnostics
    assert found.code == "trace-failed"
    assert "`blocks.0`" in found.message
    assert found.notes == ("ValueError: not today",)
    assert fingerprint(model) == before


def test_a_models_own_hooks_run_on_the_copy():
    model = Stack(Chain, 2)
    seen: list[bool] = []
    model.blocks[0].register_forward_hook(lambda _m, _a, out: seen.append(out.is_meta) or out + 1)
    trace = trace_model(model, X)
    assert seen == [True]
    adds = [step for step in trace.steps if getattr(step, "name", "") == "aten.add.Tensor"]
    assert len(adds) == 1


def test_dropout_is_off_in_a_trace_and_the_model_stays_in_training():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).train()
    names = {getattr(step, "name", "") for step in trace_model(model, X).steps}
    assert not any("dropout" in name or "bernoulli" in name for name in names)
    assert model.training


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_model_is_traced_by_its_own_names():
    trace = trace_model(torch.compile(Stack(Residual, 2)), X)
    assert "_orig_mod.blocks.1.down" in trace.tree.paths
    assert [rule.target for rule in cut_rules(trace)] == ["Residual"]


def test_a_model_in_a_wrapper_is_cut_like_the_model():
    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.base_model = nn.Module()
            self.base_model.model = Stack(Residual, 3)
            self.base_model.forward = self.base_model.model.forward

        def forward(self, *args, **kwargs):
            return self.base_model.model(*args, **kwargs)

    trace = trace_model(Wrapper(), X)
    assert Atomic("Residual", by_class=True) in cut_rules(trace)


def test_a_module_called_past_is_not_a_unit():
    class Past(nn.Module):
        def __init__(self):
            super().__init__()
            self.start = nn.Linear(4, 4)
            self.inner = Stack(Residual, 4)

        def forward(self, x):
            x = self.start(x)
            for block in self.inner.blocks:
                x = block(x)
            return x

    plan = compile_model(Past(), max_memory={0: 700, 1: 700}, example_inputs=X)
    assert Split("inner") in plan.constraints
    assert "inner" not in {unit.path for unit in plan.units}
    assert len({unit.run for unit in plan.units}) == 2
    assert verify_plan(plan, Past(), X).lawful


def test_what_shares_a_module_shares_a_device():
    class Sharing(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = Residual(), Residual()
            self.right.up = self.left.up

        def forward(self, x):
            return self.right(self.left(x))

    trace = trace_model(Sharing(), X)
    assert cut_rules(trace) == (Atomic(""),)
    assert trace.calls_of[trace.tree.module_index["left.up"]] == 2


@pytest.mark.parametrize("name", ["bert", "gemma2", "gpt2", "llama", "t5", "resnet", "vit"])
@pytest.mark.parametrize("share", [None, 0.7])
def test_the_ledger_covers_the_peak_of_what_the_plan_was_compiled_for(name, share):
    model = small_model(name)
    weights = sum(tensor.nbytes for tensor in model.parameters())
    room = weights + 9_000_000 if share is None else int(weights * share) + 5_000_000
    budgets = {0: room, 1: room, "cpu": 10**9}
    plan = compile_model(model, max_memory=budgets, batch=2, seq=16, objective="balance" if share else None)
    verified = verify_plan(plan, model)
    totals = {account.device: account.total for account in plan.ledger}
    assert verified.lawful
    assert all(peak.nbytes <= totals[peak.device] for peak in verified.peaks)
    assert any(peak.nbytes > weights / 3 for peak in verified.peaks)


def test_verifying_takes_the_workload_of_the_plan_unless_told_otherwise():
    model = small_model("llama")
    plan = compile_model(model, max_memory={0: 10**8}, batch=4, seq=32)
    peaks = [verify_plan(plan, model, **more).peaks[0].activations for more in ({}, {"batch": 1}, {"seq": 8})]
    assert peaks[0] > 3 * peaks[1]
    assert peaks[0] > 3 * peaks[2]


def test_verifying_counts_the_cache_a_plan_was_compiled_for():
    model = small_model("llama")
    plan = compile_model(model, max_memory={0: 10**8}, seq=8, cache_tokens=1000)
    (account,) = plan.ledger
    assert account.kv_cache == 2 * 2 * 1000 * 2 * 16 * 4
    assert verify_plan(plan, model).peaks[0].cache == account.kv_cache


def test_verifying_counts_weights_in_the_dtype_they_will_have():
    model = small_model("llama")
    wide = compile_model(model, max_memory={0: 10**8}, seq=8)
    narrow = compile_model(model, max_memory={0: 10**8}, seq=8, dtype="float16")
    peaks = [verify_plan(plan, model).peaks[0] for plan in (wide, narrow)]
    assert peaks[1].weights < 0.51 * peaks[0].weights
    assert peaks[1].activations < 0.7 * peaks[0].activations

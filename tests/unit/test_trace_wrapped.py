"""Models inside the wrappers people use: the real PEFT, torch.compile around all or around blocks."""

from __future__ import annotations

import pytest
import torch
from compile_plan.compiler import compile_model, verify_plan
from compile_plan.compiler.tracing import cut_rules, trace_model, verify_trace
from compile_plan.ir import Atomic
from random_cuts import random_plan
from small_models import small_model

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore:`is_gradient_checkpointing` is deprecated"
)

BUDGETS = {0: "160KiB", 1: "1MiB", "cpu": "1GiB"}


def adapted(task: str | None = None) -> torch.nn.Module:
    config = peft.LoraConfig(target_modules=["q_proj", "v_proj"], r=2, task_type=task)
    with torch.device("meta"):
        return peft.get_peft_model(small_model("llama"), config).eval()


def with_compiled_blocks() -> torch.nn.Module:
    model = small_model("llama")
    for block in model.model.layers:
        block.compile()
    model.model.layers[1] = torch.compile(model.model.layers[1])
    return model


@pytest.mark.parametrize(
    ("make", "prefix"),
    [
        (adapted, "base_model.model."),
        (lambda: adapted("CAUSAL_LM"), "base_model.model."),
        (lambda: torch.compile(small_model("llama")), "_orig_mod."),
        (lambda: torch.compile(adapted()), "_orig_mod.base_model.model."),
        (with_compiled_blocks, ""),
    ],
    ids=["peft", "peft-for-a-task", "compiled", "compiled-peft", "compiled-blocks"],
)
def test_a_wrapped_model_is_traced_cut_and_verified_under_its_own_paths(make, prefix):
    model = make()
    trace = trace_model(model, seq=16)
    assert Atomic("LlamaDecoderLayer", by_class=True) in cut_rules(trace)
    assert len(trace.cache) == 4
    assert all(verify_trace(random_plan(trace, 3, seed), trace).lawful for seed in range(4))
    plan = compile_model(model, max_memory=BUDGETS, seq=16)
    paths = [unit.path for unit in plan.units]
    assert len({unit.run for unit in plan.units}) == 2
    assert all(path.startswith(f"{prefix}") for path in paths)
    assert set(paths) <= set(dict(model.named_modules()))
    assert verify_plan(plan, model).lawful


def test_adapters_are_weights_of_the_layer_they_were_added_to():
    trace = trace_model(adapted(), seq=16)
    layer = "base_model.model.model.layers.1.self_attn.q_proj"
    names = {trace.tree.paths[call.module] for call in trace.calls}
    assert {f"{layer}.lora_A.default", f"{layer}.base_layer"} <= names

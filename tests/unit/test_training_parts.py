"""What a step of training keeps is where the weights are, also where a part of a layer is elsewhere."""

from __future__ import annotations

import pytest
import torch
import transformers
from compile_plan.compiler import compile_model, compile_plan
from compile_plan.ir import PlanError
from small_models import small_model

STATES = 3
"""Gradients and the two moments of AdamW."""


@pytest.mark.parametrize("room", [16 << 30, 20 << 30, 40 << 30])
def test_the_search_puts_gradients_and_moments_beside_their_weights(room):
    """Were they counted with the rest of a layer, a card would be given all weights and nothing else."""
    config = transformers.LlamaConfig(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=12, num_key_value_heads=8
    )
    config.dtype = "bfloat16"
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    plan = compile_model(
        model, max_memory={0: room, "cpu": 200 << 30}, workload="train", prompt=512, offload="compute"
    )
    assert sum(each.weights for each in plan.ledger) == sum(each.nbytes for each in model.parameters())
    for each in plan.ledger:
        assert each.reserve == STATES * each.weights, each.device


@pytest.mark.parametrize(
    ("name", "part"), [("llama", "mlp"), ("llama", "self_attn"), ("mixtral", "mlp.experts")]
)
def test_a_part_that_a_person_moves_takes_them_along(name, part):
    model = small_model(name)
    lines = f"place model.layers.0 on cuda:0\nplace model.layers.0.{part} on cuda:1\n"
    plan = compile_model(model, max_memory={0: 10**9, 1: 10**9}, workload="train", prompt=8, overrides=lines)
    inside = sum(each.nbytes for each in model.get_submodule(f"model.layers.0.{part}").parameters())
    (card,) = (each for each in plan.ledger if each.device == "cuda:1")
    assert card.weights == inside
    assert card.reserve == STATES * inside


def test_a_plan_to_train_by_streams_nothing():
    """A backward pass could not reach weights that are brought for the forward."""
    model = small_model("llama")
    memory = {0: 1_800_000, "cpu": 10**9}
    plan = compile_model(model, max_memory=memory, workload="train", prompt=8)
    assert {unit.run for unit in plan.units} == {"cuda:0", "cpu"}
    assert all(unit.store == unit.run for unit in plan.units)
    again = compile_plan(plan, max_memory={0: 1_500_000, "cpu": 10**9})
    assert "cpu" in {unit.store for unit in again.units}
    assert all(unit.store == unit.run for unit in again.units)
    for code, asked in (
        ("option-without-effect", {"offload": "stream"}),
        ("training-while-streaming", {"overrides": "place model.layers.0 on cpu run on cuda:0\n"}),
    ):
        with pytest.raises(PlanError) as caught:
            compile_model(model, max_memory=memory, workload="train", prompt=8, **asked)
        (help_,) = (each.help for each in caught.value.diagnostics if each.code == code)
        assert "compute" in help_

"""Models so small that the rounding of an allocator decides: what one device needs is known to the byte."""

from __future__ import annotations

import pytest
import torch
from compile_plan.compiler import compile_model, verify_plan
from compile_plan.compiler.driver import compile as driver
from compile_plan.ir import verify
from torch import nn


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.a = nn.LayerNorm(width), nn.Linear(width, width)
        self.b = nn.Linear(width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.b(torch.relu(self.a(self.norm(x))))


@pytest.mark.parametrize("offload", ["stream", "auto"])
@pytest.mark.parametrize("rows", [1, 4])
def test_a_plan_is_found_however_little_is_free_beside_the_weights(rows, offload):
    model, inputs = nn.Sequential(Block(16), Block(16)), torch.zeros(rows, 16)
    weights = sum(each.nbytes for each in model.parameters())
    for free in range(0, 4096, 512):
        budgets = {0: weights + free, 1: weights + free - 256, "cpu": "1GiB"}
        plan = compile_model(model, max_memory=budgets, example_inputs=inputs, offload=offload)
        assert verify(plan) == ()
        assert verify_plan(plan, model, inputs).lawful


@pytest.mark.parametrize("free", range(0, 4096, 512))
def test_passes_are_told_once_whatever_was_tried(free, monkeypatch):
    run, told = driver.run_on_one, []

    def listening(plan, passes, diagnostics, _after):
        return run(plan, passes, diagnostics, lambda step, _plan: told.append(step.name))

    monkeypatch.setattr(driver, "run_on_one", listening)
    model, inputs = nn.Sequential(Block(16), Block(16)), torch.zeros(1, 16)
    weights = sum(each.nbytes for each in model.parameters())
    compile_model(
        model,
        max_memory={0: weights + free, 1: weights + free - 256, "cpu": "1GiB"},
        example_inputs=inputs,
        offload="stream",
    )
    assert told
    assert len(told) == len(set(told))

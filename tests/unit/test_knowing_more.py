"""Example inputs make a plan better or leave it as it is: parts of what must stay whole use the card, too."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import transformers
from compile_plan.compiler import compile_model, verify_plan
from compile_plan.compiler.search.atoms import build
from compile_plan.compiler.search.costs import predict
from compile_plan.compiler.search.emit import places_of
from compile_plan.compiler.search.fastest import PAYS
from compile_plan.compiler.search.problem import is_legal
from compile_plan.ir import verify
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

CARD = {0: "900KiB", "cpu": "1GiB"}
WIDTH = 64


class Chain(nn.Module):
    """Linears one after the other, added to what they read where that is said."""

    def __init__(self, count: int, width: int, *, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.layers = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(count))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + layer(x) if self.residual else layer(x)
        return x


class Net(nn.Module):
    def __init__(self, chains: list[tuple[int, bool]]) -> None:
        super().__init__()
        self.chains = nn.ModuleList(Chain(count, WIDTH, residual=residual) for count, residual in chains)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for chain in self.chains:
            x = chain(x)
        return x


def on_card(plan):
    return [unit for unit in plan.units if unit.store == "cuda:0"]


@pytest.mark.parametrize("inputs", [None, torch.zeros(1, 256)], ids=["plain", "traced"])
def test_a_residual_chain_does_not_leave_the_card_empty(inputs):
    plan = compile_model(Chain(6, 256, residual=True), max_memory=CARD, example_inputs=inputs)
    assert plan.ledger[0].weights >= 768 * 1024
    assert verify(plan) == ()


def test_every_visit_is_two_changes_of_device():
    model, inputs = Chain(6, 256, residual=True), torch.zeros(1, 256)
    plan = compile_model(model, max_memory=CARD, example_inputs=inputs)
    assert plan.outcome.hops == verify_plan(plan, model, inputs).hops == 6


def test_a_residual_chain_is_streamed_in_parts_where_streaming_is_asked_for():
    model, inputs = Chain(6, 256, residual=True), torch.zeros(1, 256)
    plan = compile_model(model, max_memory=CARD, example_inputs=inputs, offload="stream")
    assert {unit.run for unit in plan.units} == {"cuda:0"}
    assert 0 < plan.ledger[0].streaming <= 256 * 1024
    assert verify_plan(plan, model, inputs).lawful


@pytest.mark.parametrize("inputs", [None, "auto"])
def test_stages_larger_than_the_card_are_streamed_in_parts(inputs):
    config = transformers.SwinConfig(
        image_size=32, patch_size=4, embed_dim=16, depths=[2, 2, 2], num_heads=[2, 2, 4], window_size=4
    )
    model = transformers.SwinModel(config)
    half = sum(parameter.nbytes for parameter in model.parameters()) // 2
    budgets = {0: half, "cpu": "1GiB"}
    plan = compile_model(model, max_memory=budgets, offload="stream", example_inputs=inputs)
    assert {unit.run for unit in plan.units} == {"cuda:0"}
    assert [d.rule.code for d in plan.diagnostics] == ["spill"]
    assert verify_plan(plan, model).lawful


def test_what_cannot_be_streamed_is_said():
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 512), nn.Linear(512, 64))
    plan = compile_model(model, max_memory={0: "100KiB", "cpu": "1GiB"}, offload="stream")
    said = [d for d in plan.diagnostics if d.rule.code == "computed-instead"]
    assert [unit.path for unit in plan.units if unit.run == "cpu"] == ["1", "2"]
    assert len(said) == 1
    more = compile_model(model, max_memory={0: "132KiB", "cpu": "1GiB"}, offload="stream")
    assert {unit.run for unit in more.units} == {"cuda:0"}


@settings(max_examples=25, derandomize=True)
@example([(2, False), (4, True), (3, False)], 82, "auto")
@given(
    st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=1, max_size=3),
    st.integers(20, 140),
    st.sampled_from(["auto", "stream"]),
)
def test_a_plan_with_inputs_is_as_quick_as_one_without(chains, kib, offload):
    model, budgets = Net(chains), {0: kib * 1024, "cpu": "1GiB"}
    traced = compile_model(model, max_memory=budgets, offload=offload, example_inputs=torch.zeros(1, WIDTH))
    plain = compile_model(model, max_memory=budgets, offload=offload)
    problem = build(replace(traced, units=(), reserves=()), traced.tree, parts=True)
    theirs = places_of(replace(plain, tree=traced.tree), problem)
    if theirs is None or not is_legal(problem.problem, theirs):  # it cuts what a trace keeps whole
        return
    ours = places_of(traced, problem)
    work = traced.workload
    if work is not None:
        seconds = [predict(problem.problem, places, work).priced for places in (ours, theirs)]
        assert seconds[0] * (1 - PAYS) <= seconds[1]  # the simple thing is kept where less is gained

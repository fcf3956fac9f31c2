"""Balanced, balanced_low_0 and sequential: as transformers means them, without what goes wrong there."""

from __future__ import annotations

import pytest
import torch
import transformers
from compile_plan.backends import to_device_map
from compile_plan.compiler import compile_model
from compile_plan.compiler.passes.annotate_sizes import AnnotateSizes
from compile_plan.compiler.passes.assign_balanced import balanced_budgets
from compile_plan.compiler.passes.merge_ties import MergeTies
from compile_plan.compiler.sources.live import lower_model
from compile_plan.ir import Atomic, Device, Diagnostics, Model, Plan, PlanError, Reason, Reserve
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.integrations.accelerate import get_balanced_memory

KIB = 1024
SPREADING = ("balanced", "balanced_low_0")


def linear(kib):
    return nn.Linear(256 * kib, 1, bias=False, device="meta")


class Stack(nn.Module):
    """Leaves of the given sizes in KiB, in order."""

    def __init__(self, *sizes):
        super().__init__()
        self.layers = nn.ModuleList(map(linear, sizes))


@pytest.fixture(scope="module", params=["gpt2", "gemma2", "opt"])
def language_model(request):
    config = CONFIG_MAPPING[request.param]()
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)


def nbytes(model):
    return sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))


def kib(**budgets):
    return {int(k[1:]) if k[0] == "g" else k: size * KIB for k, size in budgets.items()}


def held(plan):
    return {account.device: (account.weights + account.buffers) // KIB for account in plan.ledger}


def lowered(model, budgets, *no_split):
    plan = Plan(
        model=Model("m"),
        devices=tuple(Device(f"cuda:{key}", size) for key, size in budgets.items()),
        constraints=tuple(Atomic(name, by_class=True) for name in no_split),
        tree=lower_model(model),
    )
    for step in (AnnotateSizes(), MergeTies()):
        plan = step.run(plan, Diagnostics())
    return plan


@pytest.mark.skipif(
    transformers.__version__.startswith("5.17"),
    reason="before 5.18 transformers adds the mean of the leaves to a share, not the largest of them",
)
@pytest.mark.parametrize("low_zero", [False, True])
@pytest.mark.parametrize("cards", [2, 3, 5])
def test_the_budgets_are_those_of_transformers(language_model, cards, low_zero):
    budgets = dict.fromkeys(range(cards), 2 * nbytes(language_model))
    names = language_model._no_split_modules
    theirs = get_balanced_memory(language_model, dict(budgets), names, low_zero=low_zero)
    ours = balanced_budgets(lowered(language_model, budgets, *names), low_zero=low_zero)
    assert {index: device.memory for index, device in enumerate(ours)} == theirs


@pytest.mark.parametrize("strategy", SPREADING)
@pytest.mark.parametrize("share", [0.4, 0.6, 1.0])
def test_nothing_spills_where_transformers_does_and_shares_are_as_even(language_model, strategy, share):
    total = nbytes(language_model)
    plan = compile_model(
        language_model,
        max_memory={i: int(total * share) for i in range(4)} | {"cpu": total},
        strategy=strategy,
    )
    sizes = [account.weights + account.buffers for account in plan.ledger]
    assert sizes[-1] == 0
    assert plan.diagnostics == ()
    assert {unit.reason for unit in plan.units} == {Reason.BALANCED}
    assert [d.memory for d in plan.devices[:-1]] == [int(total * share)] * 4
    widest = balanced_budgets(lowered(language_model, dict.fromkeys(range(4), total)), low_zero=False)
    assert max(sizes) <= (widest[0].memory if strategy == "balanced" else total * share)


def test_equal_layers_come_out_equal():
    plan = compile_model(
        Stack(*[10] * 12), max_memory=kib(g0=100, g1=100, g2=100, cpu=1000), strategy="balanced"
    )
    assert held(plan) == {"cuda:0": 40, "cuda:1": 40, "cuda:2": 40, "cpu": 0}


def test_a_smaller_card_takes_what_it_can():
    plan = compile_model(Stack(*[10] * 12), max_memory=kib(g0=20, g1=100, g2=100), strategy="balanced")
    assert held(plan) == {"cuda:0": 20, "cuda:1": 50, "cuda:2": 50}


@pytest.mark.parametrize("keys", [(0, 2, 3), (1, 2), (5,)])
@pytest.mark.parametrize("strategy", SPREADING)
def test_c1_any_device_numbers_work(keys, strategy):
    plan = compile_model(Stack(*[10] * 6), max_memory=dict.fromkeys(keys, 100 * KIB), strategy=strategy)
    assert sum(held(plan).values()) == 60
    if strategy == "balanced_low_0" and len(keys) > 1:
        assert held(plan)[f"cuda:{keys[0]}"] == 0


def test_c2_a_card_without_budget_does_not_make_the_first_one_pay():
    budgets = kib(g0=100, g1=0, g2=100, g3=100)
    plan = compile_model(Stack(*[10] * 12), max_memory=budgets, strategy="balanced_low_0")
    assert held(plan) == {"cuda:0": 0, "cuda:1": 0, "cuda:2": 60, "cuda:3": 60}


def test_the_first_card_takes_only_what_the_others_cannot():
    plan = compile_model(
        Stack(*[10] * 12), max_memory=kib(g0=100, g1=50, g2=50, cpu=100), strategy="balanced_low_0"
    )
    assert held(plan) == {"cuda:0": 20, "cuda:1": 50, "cuda:2": 50, "cpu": 0}


@pytest.mark.parametrize("strategy", [*SPREADING, "sequential", "auto", "accelerate"])
def test_c4_no_accelerator_memory_is_a_plan_on_the_cpu_and_no_memory_is_said(strategy):
    plan = compile_model(Stack(10, 10), max_memory=kib(g0=0, cpu=100), strategy=strategy)
    assert to_device_map(plan) == {"": "cpu"}
    assert {unit.run for unit in plan.units} == {"cpu"}
    assert plan.diagnostics == ()
    with pytest.raises(PlanError) as caught:
        compile_model(Stack(10, 10), max_memory={"disk": 0}, strategy=strategy)
    assert caught.value.diagnostics[0].code == "no-usable-device"


@pytest.mark.parametrize("strategy", SPREADING)
def test_a_spill_the_even_shares_cannot_avoid_is_searched_away(strategy):
    plan = compile_model(Stack(2, 2, 1, 2), max_memory=kib(g0=3, g1=4, cpu=9), strategy=strategy)
    assert held(plan)["cpu"] == 0
    assert plan.diagnostics == ()


def test_what_a_card_keeps_free_is_not_part_of_its_share():
    budgets = kib(g0=100, g1=100, cpu=100)
    reserve = Reserve(30 * KIB, "cuda:0", "other work")
    plan = compile_model(Stack(*[10] * 8), max_memory=budgets, strategy="balanced", reserves=(reserve,))
    assert held(plan) == {"cuda:0": 40, "cuda:1": 40, "cpu": 0}
    assert plan.ledger[0].reserve == 30 * KIB


def test_pins_stay_and_are_not_called_balanced():
    text = "plan 1\nplace layers.3 on cuda:0\n"
    plan = compile_model(Stack(*[10] * 4), max_memory=kib(g0=50, g1=50), strategy="balanced", overrides=text)
    reasons = {unit.path: unit.reason for unit in plan.units}
    assert reasons["layers.3"] is Reason.WRITTEN
    assert {unit.store for unit in plan.units if unit.path == "layers.3"} == {"cuda:0"}


def test_sequential_fills_each_card_before_the_next():
    plan = compile_model(
        Stack(*[10] * 10), max_memory=kib(g0=50, g1=50, g2=50, cpu=1000), strategy="sequential"
    )
    assert held(plan) == {"cuda:0": 50, "cuda:1": 50, "cuda:2": 0, "cpu": 0}
    assert plan.diagnostics == ()


def test_sequential_keeps_the_order_even_where_a_card_is_passed_over():
    plan = compile_model(Stack(16, 4, 16), max_memory=kib(g0=8, g1=40, cpu=100), strategy="sequential")
    assert held(plan) == {"cuda:0": 0, "cuda:1": 36, "cpu": 0}


def test_sequential_gives_up_the_order_rather_than_spill():
    plan = compile_model(Stack(2, 2, 1, 2), max_memory=kib(g0=3, g1=4, cpu=9), strategy="sequential")
    assert held(plan) == {"cuda:0": 3, "cuda:1": 4, "cpu": 0}


@pytest.mark.parametrize("strategy", [*SPREADING, "sequential"])
def test_an_unavoidable_spill_is_said_once(strategy):
    plan = compile_model(Stack(*[10] * 6), max_memory=kib(g0=30, g1=20, cpu=100), strategy=strategy)
    assert [diagnostic.code for diagnostic in plan.diagnostics] == ["spill"]
    assert held(plan)["cpu"] <= 20

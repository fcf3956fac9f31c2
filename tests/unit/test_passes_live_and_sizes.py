"""Lowering a live module, its sizes and its ties."""

from __future__ import annotations

import pytest
import torch
from compile_plan.compiler.passes.annotate_sizes import AnnotateSizes
from compile_plan.compiler.passes.expand_splits import ExpandSplits
from compile_plan.compiler.passes.merge_ties import MergeTies
from compile_plan.compiler.sources.live import lower_model
from compile_plan.ir import Diagnostics, Model, Plan, PlanError
from torch import nn


def sized(model: nn.Module) -> Plan:
    plan = Plan(model=Model("m"), tree=lower_model(model))
    for step in (AnnotateSizes(), MergeTies(), ExpandSplits()):
        plan = step.run(plan, Diagnostics())
    return plan


def test_a_view_and_its_storage_are_one_cost():
    model = nn.Module()
    model.whole = nn.Parameter(torch.zeros(8))
    model.part = nn.Parameter(model.whole.detach()[:4])
    plan = sized(model)
    assert sum(plan.tree.nbytes) == 32
    assert [tie.tensors for tie in plan.ties] == [("whole", "part")]


def test_two_thousand_levels_are_not_too_deep():
    model = leaf = nn.Module()
    for _ in range(2000):
        leaf.child = nn.Module()
        leaf = leaf.child
    assert len(lower_model(model)) == 2001


def test_a_module_below_itself_is_a_diagnostic():
    model = nn.Module()
    model.child = nn.Module()
    model.child.owner = model
    with pytest.raises(PlanError) as caught:
        lower_model(model)
    assert caught.value.diagnostics[0].code == "cyclic-module"


def test_a_lazy_parameter_is_named():
    with pytest.raises(PlanError) as caught:
        lower_model(nn.Sequential(nn.LazyLinear(3)))
    assert caught.value.diagnostics[0].code == "lazy-parameter"
    assert "`0.weight`" in caught.value.diagnostics[0].message


def test_a_shared_module_is_at_both_places_and_costs_once():
    model = nn.Module()
    model.a = model.b = nn.Linear(4, 4)
    plan = sized(model)
    assert [unit.path for unit in plan.units] == ["a", "b"]
    assert sum(plan.tree.nbytes) == 80
    assert len(plan.ties) == 2

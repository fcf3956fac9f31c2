"""First fit, its repair, and what is said about a placement, on plans small enough to check by hand."""

from __future__ import annotations

import pytest
from compile_plan.compiler import compile_model
from compile_plan.compiler.passes.assign_greedy import AssignGreedy
from compile_plan.compiler.passes.expand_splits import ExpandSplits
from compile_plan.compiler.passes.merge_ties import MergeTies
from compile_plan.compiler.passes.rewrite_fallbacks import RewriteFallbacks
from compile_plan.compiler.sources.live import MAX_MODULES, lower_model, no_split_classes, untied
from compile_plan.grammar import parse
from compile_plan.ir import Diagnostics, PlanError, Reason
from torch import nn

CARDS = "device cuda:0 memory 4KiB\ndevice cuda:1 memory 4KiB\ndevice cpu memory 1MiB\n"
FOUR = "".join(f"module {name} : Linear 2KiB\n" for name in "abcd")


def placed(text, *more):
    plan = parse(f'plan 1\nmodel "m"\n{text}')
    for step in (MergeTies(), ExpandSplits(), AssignGreedy(), *more):
        plan = step.run(plan, Diagnostics())
    return plan


def where(plan):
    return {unit.path: unit.store for unit in plan.units}


def test_a_pin_keeps_its_place_and_its_room():
    plan = placed(CARDS + FOUR + "place d on cuda:0\n")
    assert where(plan) == {"a": "cuda:0", "b": "cuda:1", "c": "cuda:1", "d": "cuda:0"}
    assert {unit.path for unit in plan.units if unit.reason is Reason.WRITTEN} == {"d"}


def test_nothing_to_repair_is_the_very_same_plan():
    plan = placed(CARDS + FOUR)
    assert RewriteFallbacks().run(plan, Diagnostics()) is plan


def test_an_oversized_tree_is_refused_before_it_fills_the_memory(monkeypatch):
    monkeypatch.setattr("compile_plan.compiler.sources.live.MAX_MODULES", 1000)
    shared = nn.Linear(1, 1, device="meta")
    for _ in range(12):
        level = nn.Module()
        level.a = level.b = shared
        shared = level
    with pytest.raises(PlanError) as caught:
        lower_model(shared)
    assert caught.value.diagnostics[0].code == "oversized-model"
    assert MAX_MODULES > 1_000_000


class Wrapper(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.module = inner


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({"B", "A"}, ("A", "B")),
        (["B", "A"], ("A", "B")),
        (("A",), ("A",)),
        ("Block", ("Block",)),
        (None, ()),
        ([], ()),
        (lambda: ["A"], ()),
    ],
)
def test_no_split_classes_however_they_are_kept_and_wrapped(own, expected):
    model = nn.Linear(1, 1)
    model._no_split_modules = own
    assert no_split_classes(model) == expected
    assert no_split_classes(Wrapper(Wrapper(model))) == expected


@pytest.mark.parametrize("classes", ["Block", ["Block"], {"Block"}, ("Block",)])
def test_no_split_classes_may_be_given_in_any_collection(classes):
    block = type("Block", (nn.Sequential,), {})
    model = nn.Sequential(*(block(*(nn.Linear(256, 1, bias=False) for _ in range(2))) for _ in range(3)))
    budgets = {0: 3 * 1024, 1: 5 * 1024}
    plan = compile_model(model, max_memory=budgets, no_split_module_classes=classes)
    assert where(plan) == {"0": "cuda:0", "1": "cuda:1", "2": "cuda:1"}


class Config:
    tie_word_embeddings = True


def test_a_model_whose_config_asks_for_ties_it_does_not_have_is_told():
    model = nn.Module()
    model.embed, model.head = nn.Embedding(4, 2), nn.Linear(2, 4, bias=False)
    model.config, model.get_output_embeddings = Config(), lambda: model.head
    assert untied(model, lower_model(model)).code == "model-not-tied"
    model.head.weight = model.embed.weight
    assert untied(model, lower_model(model)) is None

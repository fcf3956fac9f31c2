"""What every user of accelerate writes is never an error, and what is really wrong still is."""

from __future__ import annotations

import pytest
import torch
from compile_plan.compiler import compile_model
from compile_plan.ir import Atomic, PlanError
from torch import nn

BUDGETS = {0: "1GiB", "cpu": "1GiB"}


class Block(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(8, 8), nn.Linear(8, 8))


class Backbone(nn.Sequential):
    _no_split_modules = ("Block", "AbsentHere")


class Vision(nn.Module):
    """Its own list is empty, as transformers leaves it for models whose parts declare something."""

    _no_split_modules = frozenset()

    def __init__(self):
        super().__init__()
        self.pixels = nn.Sequential(Backbone(Block(), Block()))
        self.head = nn.Linear(8, 8)


def classes(plan):
    return {rule.target for rule in plan.constraints if isinstance(rule, Atomic) and rule.by_class}


def test_the_models_own_list_may_name_classes_this_variant_does_not_have():
    model = Backbone(Block(), Block())
    plan = compile_model(model, max_memory=BUDGETS, no_split_module_classes=model._no_split_modules)
    assert classes(plan) == {"Block"}


def test_names_that_a_model_inside_declares_are_known_too():
    plan = compile_model(Vision(), max_memory=BUDGETS, no_split_module_classes=["AbsentHere", "Block"])
    assert classes(plan) == {"Block"}


def test_a_misspelled_class_is_still_an_error_h12():
    with pytest.raises(PlanError) as caught:
        compile_model(Vision(), max_memory=BUDGETS, no_split_module_classes=["AbsentHere", "Blok"])
    assert [(each.code, each.help) for each in caught.value.diagnostics] == [
        ("unknown-class", "did you mean `Block`?")
    ]


def test_an_empty_list_of_the_models_own_is_its_list():
    assert classes(compile_model(Vision(), max_memory=BUDGETS)) == set()
    assert classes(compile_model(nn.Sequential(Backbone(Block())), max_memory=BUDGETS)) == {"Block"}


@pytest.mark.parametrize(
    "name", ["BartForConditionalGeneration", "Gemma3ForConditionalGeneration", "WhisperModel", "LlavaModel"]
)
def test_the_idiom_holds_for_models_of_transformers(name):
    transformers = pytest.importorskip("transformers")
    kind = getattr(transformers, name)
    with torch.device("meta"):
        model = kind(kind.config_class())
    own = model._no_split_modules
    plan = compile_model(model, max_memory={0: "400GiB", "cpu": "1GiB"}, no_split_module_classes=own)
    assert {unit.store for unit in plan.units} == {"cuda:0"}

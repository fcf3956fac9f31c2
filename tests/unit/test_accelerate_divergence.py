"""Where our map is not accelerate's: each class of defect as one small model, with the reason.

Each test first shows accelerate's defect, so it fails on the day accelerate mends it and can go.
"""

from __future__ import annotations

import logging

import accelerate
import pytest
import torch
from compile_plan.compiler import compile_model
from compile_plan.compiler.driver.drop_in import infer_auto_device_map
from torch import nn

logging.getLogger("accelerate").setLevel(logging.ERROR)
KIB = 1024


def layer(kib):
    return nn.Linear(256, kib, bias=False, device="meta")


def model_of(**sizes):
    model = nn.Module()
    for name, kib in sizes.items():
        model.add_module(name, layer(kib))
    return model


def theirs(model, budgets):
    return dict(accelerate.infer_auto_device_map(model, dict(budgets), clean_result=False))


def ours(model, budgets):
    return infer_auto_device_map(model, budgets, clean_result=False)


def test_a_name_inside_another_name_is_not_a_module_inside_another():
    """It looks for tied names as substrings, so `b` seems to contain `xb.weight`."""
    model = model_of(b=4, c=8, xb=4)
    model.xb.weight = model.b.weight
    budgets = {0: 12 * KIB, 1: 40 * KIB}
    with pytest.raises(IndexError):
        theirs(model, budgets)
    assert ours(model, budgets) == {"b": 0, "xb": 0, "c": 0}


def test_a_tower_tied_to_another_does_not_crash():
    """It takes the tied module's index from a list the module has left already."""
    model = nn.Module()
    model.enc, model.dec = (nn.Sequential(*(layer(10) for _ in range(4))) for _ in range(2))
    for one, other in zip(model.enc, model.dec, strict=True):
        other.weight = one.weight
    model.head = layer(40)
    budgets = {0: 60 * KIB, 1: 60 * KIB}
    with pytest.raises(IndexError):
        theirs(model, budgets)
    places = ours(model, budgets)
    for index in range(4):
        names = [f"{tower}.{index}." for tower in ("enc", "dec")]
        assert len({next(d for k, d in places.items() if n.startswith(f"{k}.")) for n in names}) == 1


def test_a_buffer_of_an_opened_module_has_a_place():
    """It opens a module into parameters and children and forgets the buffers."""
    model = nn.Module()
    model.block = model_of(a=10, b=10)
    model.block.register_buffer("scale", torch.empty(1, device="meta"))
    budgets = {0: 20 * KIB, 1: 45 * KIB}
    assert not any("block.scale".startswith(path) for path in theirs(model, budgets))
    assert "block.scale" in ours(model, budgets)


def test_a_forgotten_buffer_does_not_follow_its_empty_parent_beyond_a_budget():
    """It places only the empty child on the full CPU, then merges it with the buffer it forgot."""
    model = nn.Module()
    model.block, model.other = nn.Module(), nn.Module()
    model.block.child = nn.Module()
    model.block.register_buffer("mask", torch.empty(KIB, device="meta"))
    budgets = {"cpu": 0, "disk": 0}
    assert theirs(model, budgets) == {"block.child": "cpu", "other": "cpu"}
    assert dict(accelerate.infer_auto_device_map(model, dict(budgets))) == {"": "cpu"}
    assert infer_auto_device_map(model, budgets)["block.mask"] == "disk"


def test_a_plan_counts_a_bool_as_the_byte_it_is():
    """It counts a bool as a bit, so a mask of 8 KiB fits on a card of 3 KiB; a plan must hold."""
    model = model_of(a=1)
    model.register_buffer("mask", torch.empty(8 * KIB, dtype=torch.bool, device="meta"))
    budgets = {0: 3 * KIB, 1: 40 * KIB}
    assert theirs(model, budgets) == ours(model, budgets) == {"a": 0, "mask": 0}
    plan = compile_model(model, max_memory=budgets, strategy="accelerate")
    assert {unit.path: unit.store for unit in plan.units} == {"": "cuda:1"}

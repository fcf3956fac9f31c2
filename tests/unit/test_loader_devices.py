"""The loader on several accelerators, pretended: what it does is what the replay says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from compile_plan.compiler.loading.moves import entries, moved, start_device
from compile_plan.compiler.sources.live import lower_model
from compile_plan.ir import Device, Model, Plan, Unit
from torch import nn

SUPPORT = Path(__file__).parents[1] / "support"


@pytest.fixture(scope="module", name="loads")
def _loads():
    command = [sys.executable, "pretended_loads.py", "gpt2", "llama", "t5", "bert", "mixtral"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=SUPPORT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5", "bert", "mixtral"])
def test_what_is_loaded_runs_as_the_replay_says_and_computes_the_same(loads, name):
    rows = loads[name]
    runs = {title: got for title, (said, got) in rows.items() if said == "runs"}
    meets = {title: got for title, (said, got) in rows.items() if said == "meets"}
    assert len(runs) >= 8
    assert set(runs.values()) == {"equal"}, runs
    assert len(meets) >= 3
    assert all(got.startswith("meets") for got in meets.values()), meets


class Blocks(nn.Module):
    """Calls what is in its containers, never the containers."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.ModuleDict({"inner": nn.Linear(4, 4)})])
        self.steps = nn.Sequential(nn.Linear(4, 4), nn.ReLU())


def placed(*units):
    tree = lower_model(Blocks())
    devices = tuple(Device(name, None) for name in ("cuda:0", "cuda:1", "cpu"))
    return Plan(Model("blocks"), devices, units=tuple(Unit(p, d, d) for p, d in units), tree=tree), tree


def test_a_container_hands_its_place_to_what_is_called():
    plan, tree = placed(("first", "cuda:0"), ("blocks", "cuda:1"), ("steps", "cpu"))
    live = list(Blocks().modules())
    assert {tree.paths[module]: run for module, run in entries(plan, tree, live)} == {
        "first": "cuda:0",
        "blocks.0": "cuda:1",
        "blocks.1.inner": "cuda:1",
        "steps": "cpu",
        "steps.0": "cpu",
        "steps.1": "cpu",
    }


def test_a_module_in_two_places_is_entered_once():
    plan, tree = placed(("first", "cuda:0"), ("blocks", "cuda:1"))
    one = nn.Linear(4, 4)
    live = [one if isinstance(module, nn.Linear) else module for module in Blocks().modules()]
    assert [run for _, run in entries(plan, tree, live)] == ["cuda:0"]


def test_inputs_start_where_the_first_module_with_tensors_runs():
    plan, tree = placed(("first.weight", "cpu"), ("steps.1", "cpu"), ("blocks", "cuda:1"), ("steps.0", "cpu"))
    assert start_device(plan, tree) == "cuda:1"


def test_moving_changes_nothing_of_the_callers():
    given = {"a": torch.ones(2), "b": [torch.ones(1), 3]}
    there = moved(given, torch.device("meta"))
    assert there["b"][0].is_meta
    assert not given["a"].is_meta
    assert not given["b"][0].is_meta
    assert moved(given, torch.device("cpu")) is given

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from compile_plan.compiler import compile_model, verify_plan
from compile_plan.compiler.tracing import cut_rules, must_stay_whole, trace_model, verify_trace
from compile_plan.grammar import parse, print_plan
from compile_plan.ir import Atomic, PlanError, Together
from random_cuts import bad_plan, random_plan
from small_models import CONFIGS, small_model
from tiny_modules import (
    Borrowed,
    Chain,
    Following,
    GatedMlp,
    Polite,
    Residual,
    Scaled,
    Stack,
    SummedByChild,
    TwoEmbeddings,
)
from torch import nn

X = torch.zeros(2, 4)


@pytest.mark.parametrize(
    ("block", "whole"),
    [
        (Residual, ["Residual"]),
        (GatedMlp, ["GatedMlp"]),
        (Scaled, ["Scaled"]),
        (Borrowed, ["Borrowed"]),
        (SummedByChild, ["SummedByChild"]),
        (Chain, []),
        (Polite, []),
        (Following, []),
    ],
)
def test_a_block_is_whole_exactly_when_its_own_forward_mixes_its_parts(block, whole):
    rules = cut_rules(trace_model(Stack(block), X))
    assert [rule.target for rule in rules] == whole
    assert all(rule.by_class for rule in rules)


def test_parts_mixed_beside_a_stack_are_joined_and_the_stack_stays_open():
    trace = trace_model(TwoEmbeddings(), torch.zeros(1, 5, dtype=torch.int64))
    assert cut_rules(trace) == (Atomic("Residual", by_class=True), Together(("tokens", "positions")))


def test_without_joining_the_module_that_mixes_is_whole():
    trace = trace_model(TwoEmbeddings(), torch.zeros(1, 5, dtype=torch.int64))
    assert must_stay_whole(trace) == (Atomic(""),)


def test_a_class_with_one_open_member_is_named_by_path():
    class Loose(Residual):
        def forward(self, x):
            return self.down(self.up(x)) if getattr(self, "plain", False) else super().forward(x)

    model = Stack(Loose)
    model.blocks[1].plain = True
    rules = cut_rules(trace_model(model, X))
    assert rules == (Atomic("blocks.0"), Atomic("blocks.2"))


def test_what_the_forward_did_not_reach_is_whole_unless_classes_are_known():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.tower = Chain(), Stack(Residual)

        def forward(self, x):
            return self.used(x)

    trace = trace_model(Unused(), X)
    assert cut_rules(trace) == (Atomic("Stack", by_class=True),)
    assert cut_rules(trace, known=frozenset({"Residual"})) == (Atomic("Residual", by_class=True),)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_no_devices_meet_whatever_goes_where_along_the_cuts(name):
    trace = trace_model(small_model(name), seq=16)
    for seed in range(8):
        plan = random_plan(trace, 2 + 2 * (seed % 2), seed, offload=seed % 3 == 2)
        assert verify_trace(plan, trace).diagnostics == ()


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "mixtral", "vit", "bert", "t5"])
def test_cuts_are_at_least_as_fine_as_the_classes_the_model_lists(name):
    model = small_model(name)
    trace = trace_model(model, seq=16)
    listed = set(model._no_split_modules)
    classes = dict(zip(trace.tree.paths, trace.tree.classes, strict=True))
    parents = trace.tree.parents
    for rule in cut_rules(trace):
        for module, kind in enumerate(classes.values()):
            if kind != rule.target:
                continue
            above = []
            while module >= 0:
                above.append(trace.tree.classes[module])
                module = parents[module]  # noqa: PLW2901  climbing to the root
            assert listed.intersection(above)


def test_torch_itself_agrees_on_pretended_devices():
    names = ["bert", "gpt2", "llama", "gemma2", "t5", "vit", "whisper", "opt", "bloom", "resnet"]
    support = Path(__file__).parents[1] / "support"
    environment = {**os.environ, "PYTHONPATH": str(support)}
    done = subprocess.run(
        [sys.executable, support / "fake_devices.py", *names],
        env=environment, check=True, capture_output=True, text=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    for name in names:
        assert set(found[name]["along the cuts"]) == {"runs/runs"}, name
        assert set(found[name]["across them"]) <= {"meets/meets", "runs/runs"}, name
        assert "meets/meets" in found[name]["across them"], name


def test_cutting_a_residual_block_is_found():
    trace = trace_model(small_model("llama"), seq=16)
    found = verify_trace(bad_plan(trace, 0), trace).diagnostics
    assert {d.code for d in found} == {"devices-meet"}
    assert all(d.help for d in found)


class Mixing(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(16))
        self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x):
        return self.b(self.a(x) * self.scale)


MIX, LINEAR = 16 * 4, (16 * 16 + 16) * 4
BLOCK = 512
"""What an allocator of cards makes of less."""
"""Bytes of one row, and of one of the two parts of `Mixing`."""


@pytest.mark.parametrize("offload", ["stream", "compute", "auto", "none"])
def test_a_model_that_mixes_its_own_parts_is_one_unit_with_visited_parts(offload):
    model, x = Mixing(), torch.zeros(1, 16)

    def plan(budgets):
        made = compile_model(model, max_memory=budgets, example_inputs=x, offload=offload)
        seen = verify_plan(made, model, x)
        assert seen.diagnostics == ()
        assert parse(print_plan(made)).constraints == made.constraints == (Atomic(""),)
        totals = {account.device: account.total for account in made.ledger}
        assert all(peak.nbytes <= totals[peak.device] for peak in seen.peaks)
        return [(unit.path, unit.store, unit.run) for unit in made.units], totals

    units, totals = plan({0: 4000, 1: 4000})
    assert units == [("", "cuda:0", "cuda:0")]
    assert totals == {"cuda:0": 2 * LINEAR + MIX + 3 * BLOCK, "cuda:1": 0}  # three rows at once
    for budgets in ({0: 1800, 1: 1800, "cpu": 9999}, {0: 1800, 1: 1800}):
        units, totals = plan(budgets)
        assert units == [("", "cuda:0", "cuda:0"), ("b", "cuda:1", "cuda:1")]
        assert totals["cuda:0"] == LINEAR + 4 * MIX  # its scale, and three rows at once
        assert totals["cuda:1"] == LINEAR + 3 * MIX
    with pytest.raises(PlanError, match="does not fit on cuda:0, cuda:1"):
        plan({0: 1100, 1: 1100})


def test_what_a_card_has_room_for_is_visited_from_the_host():
    def units(offload):
        budgets, x = {0: 1300, "cpu": 9999}, torch.zeros(1, 16)
        made = compile_model(Mixing(), max_memory=budgets, example_inputs=x, offload=offload)
        assert verify_plan(made, Mixing(), x).lawful
        return [(unit.path, unit.store, unit.run) for unit in made.units]

    whole = ("", "cpu", "cpu")
    assert units("compute") == units("auto") == [whole, ("a", "cuda:0", "cuda:0")]
    assert units("stream") == [whole, ("a", "cpu", "cuda:0"), ("b", "cpu", "cuda:0")]  # one part at a time
    with pytest.raises(PlanError, match="does not fit on cuda:0"):
        units("none")


def test_its_parts_are_visited_when_they_are_placed_apart_by_hand():
    x, lines = torch.zeros(1, 16), "place a on cuda:0\nplace b on cuda:1\n"
    plan = compile_model(Mixing(), max_memory={0: 9999, 1: 9999}, example_inputs=x, overrides=lines)
    assert [(unit.path, unit.store) for unit in plan.units] == [
        ("", "cuda:0"),
        ("a", "cuda:0"),
        ("b", "cuda:1"),
    ]
    seen = verify_plan(plan, Mixing(), x)
    assert seen.lawful
    assert [(copy.origin, copy.target) for copy in seen.copies] == [
        ("cuda:0", "cuda:1"),
        ("cuda:1", "cuda:0"),
    ]


class SharedHead(nn.Module):
    """A head under two names, read by both of its owners: what it meets depends on who runs it."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Chain() for _ in range(4))
        self.head = nn.Linear(4, 4)
        self.decoder = nn.Module()
        self.decoder.head = self.head
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x):
        start = torch.nn.functional.linear(x, self.head.weight, self.scale)
        for block in self.blocks:
            x = block(x)
        return self.decoder.head(x) + torch.nn.functional.linear(start, self.decoder.head.weight)


def test_a_shared_module_that_is_read_past_its_owners_does_not_stop_the_search_for_cuts():
    trace = trace_model(SharedHead(), X)
    assert cut_rules(trace)
    for seed in range(6):
        assert verify_trace(random_plan(trace, 2, seed), trace).lawful

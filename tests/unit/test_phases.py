"""Phases: what is in use at different times never adds up, and what is in use at one time always does."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from compile_plan.backends import read_plan, write_plan
from compile_plan.backends.html_report import emit_report
from compile_plan.compiler import compile_model, compile_plan
from compile_plan.compiler.answers.explain_device import device_facts
from compile_plan.compiler.placing.ledger import keep_books
from compile_plan.grammar import parse, print_plan
from compile_plan.ir import PlanError
from torch import nn

ONE_CARD = """
plan 1
model "m"
device cuda:0 memory {memory}
device cpu memory 1MiB
phase a
phase b
parameter a.0.weight : uint8[4096]
parameter a.1.weight : uint8[4096]
parameter b.0.weight : uint8[4096]
demand 6KiB with a for "activations"
demand 2KiB with b for "activations"
demand 1KiB with a for "kv cache"
demand 3KiB with b for "kv cache"
"""
TOGETHER = ONE_CARD.replace("phase a\nphase b\n", "")


def books(text, places):
    plan = parse(text.format(memory="64KiB") + places)
    tree = plan.tree.sized(tuple(4096 for _ in plan.tree.tensor_names), None)
    return {account.device: account for account in keep_books(replace(plan, tree=tree), tree).ledger}[
        "cuda:0"
    ]


def test_a_device_holds_what_is_in_use_in_its_fullest_phase():
    everything = 'place "" on cuda:0\n'
    apart, at_once = books(ONE_CARD, everything), books(TOGETHER, everything)
    assert (apart.weights, apart.kv_cache, apart.activations) == (3 * 4096, 1024, 6144)
    assert (at_once.kv_cache, at_once.activations) == (4096, 6144)
    streamed = "place a on cuda:0\nplace b on cpu run on cuda:0\n"
    apart, at_once = books(ONE_CARD, streamed), books(TOGETHER, streamed)
    assert (apart.streaming, apart.activations, apart.kv_cache) == (4096, 2048, 3072)  # b: 9 KiB, a: 7 KiB
    assert (at_once.streaming, at_once.activations, at_once.kv_cache) == (4096, 6144, 4096)


def test_what_no_line_names_or_several_do_is_always_there():
    twice = ONE_CARD.replace("phase b\n", "phase a b\n")
    assert books(twice, 'place "" on cuda:0\n').kv_cache == 1024 + 3072  # a is in use in b's phase, too
    alone = ONE_CARD.replace("phase b\n", "")
    assert books(alone, 'place "" on cuda:0\n').kv_cache == 1024 + 3072


def least(text):
    """Return the least KiB of a card at which everything stays on it."""
    for size in itertools.count(12):
        plan = compile_plan(parse(text.format(memory=f"{size}KiB")))
        if {unit.store for unit in plan.units} == {"cuda:0"}:
            return size
    return None


def test_the_search_fills_what_phases_leave():
    assert least(ONE_CARD) == 12 + 7
    assert least(TOGETHER) == 12 + 6 + 4


def test_a_budget_that_only_phases_keep_is_kept():
    plan = compile_plan(parse(ONE_CARD.format(memory="19KiB")))
    account = plan.ledger[0]
    assert account.total <= plan.devices[0].memory
    assert account.kv_cache + account.activations == 7 * 1024
    facts = dict(device_facts(plan, "cuda:0"))
    assert facts["in use then"] == "a"
    page = emit_report(plan).decode()
    assert "The ledger by phase" in page
    assert "<td>a</td>" in page
    assert "writing a token" not in page


def test_every_form_keeps_phases(tmp_path):
    plan = compile_plan(parse(ONE_CARD.format(memory="19KiB")))
    write_plan(plan, tmp_path / "p.msgpack")
    assert read_plan(tmp_path / "p.msgpack") == plan
    assert parse(print_plan(plan)).constraints == plan.constraints
    assert "phase a\nphase b\n" in print_plan(plan)


def test_a_phase_of_nothing_is_named():
    with pytest.raises(PlanError) as caught:
        compile_plan(parse(ONE_CARD.format(memory="64KiB").replace("phase b", "phase bb")))
    assert [found.code for found in caught.value.diagnostics] == ["unknown-path"]


class Deep(nn.Module):
    """Layers whose results are wide in the middle."""

    def __init__(self, width, wide):
        super().__init__()
        self.up, self.down = nn.Linear(width, wide, bias=False), nn.Linear(wide, width, bias=False)

    def forward(self, x):
        return self.down(self.up(x).relu())


def test_parts_are_traced_with_inputs_of_their_own():
    parts = {"text_encoder": Deep(8, 64), "transformer": Deep(8, 64), "vae": Deep(8, 16)}
    inputs = {"text_encoder": torch.ones(10, 8), "transformer": {"x": torch.ones(100, 8)}}
    plan = compile_model(parts, max_memory={0: "1MiB", "cpu": "1MiB"}, example_inputs=inputs)
    needs = {(each.path.partition(".")[0], each.purpose) for each in plan.demands}
    assert needs == {("text_encoder", "activations"), ("transformer", "activations")}
    assert [rule.patterns for rule in plan.constraints if hasattr(rule, "patterns")] == [
        ("transformer",), ("text_encoder",), ("vae",),
    ]  # fmt: skip
    largest = max(each.nbytes for each in plan.demands)
    assert plan.ledger[0].activations == largest
    assert largest >= 2 * 100 * 64 * 4  # what `up` makes, and what becomes of it
    assert dict(device_facts(plan, "cuda:0"))["in use then"] == "transformer"


def test_a_pipeline_is_called_and_writes_no_tokens():
    parts = {"text_encoder": Deep(8, 64), "transformer": Deep(8, 64)}
    plan = compile_model(parts, max_memory={"cpu": "1MiB"})
    assert (plan.workload.kind, plan.workload.added) == ("forward", True)
    asked = compile_model(parts, max_memory={"cpu": "1MiB"}, overrides="workload forward rows 2 tokens 77\n")
    assert (asked.workload.rows, asked.workload.tokens) == (2, 77)


def test_inputs_for_a_part_there_is_not_are_named():
    with pytest.raises(PlanError) as caught:
        compile_model(
            {"vae": Deep(8, 8)}, max_memory={"cpu": "1MiB"}, example_inputs={"vea": torch.ones(1, 8)}
        )
    assert [found.code for found in caught.value.diagnostics] == ["bad-example-input"]


def test_a_pipeline_is_planned_again_for_smaller_cards(tmp_path):
    parts = {"text_encoder": Deep(8, 64), "transformer": Deep(16, 64)}
    plan = compile_model(parts, max_memory={0: "64KiB", "cpu": "1MiB"})
    write_plan(plan, tmp_path / "p.msgpack")
    for memory, stores in (("10KiB", {"cuda:0"}), ("4KiB", {"cpu"})):
        again = compile_plan(tmp_path / "p.msgpack", max_memory={0: memory, "cpu": "1MiB"})
        assert {unit.store for unit in again.units if unit.path[:11] in {"", "transformer"}} == stores

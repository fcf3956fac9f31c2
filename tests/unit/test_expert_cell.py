"""One cell of the expert table: the whole table is `python benchmarks/expert_table.py`."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from compile_plan.grammar import parse, print_plan
from compile_plan.ir import Device, verify

TABLE = Path(__file__).parents[2] / "benchmarks" / "expert_table.py"


@pytest.fixture(scope="module", name="table")
def _table():
    spec = importlib.util.spec_from_file_location("expert_table", TABLE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


CELLS = {
    "one card": ("Qwen3-30B-A3B", [24], 1024),
    "equal cards": ("gpt-oss-120b", [24, 24], 1024),
    "nearly all of it fits": ("gpt-oss-120b", [48, 8], 256),
    "the host cannot hold it": ("Qwen3-30B-A3B", [8, 16, 12], 32),
}


@pytest.mark.parametrize("cell", CELLS)
def test_the_default_is_as_quick_as_what_an_expert_writes(table, cell):
    name, cards, host = CELLS[cell]
    memory = {index: size * table.GIB for index, size in enumerate(cards)}
    ours, theirs, expert, _ = table.row(name, memory, host * table.GIB)
    assert ours >= expert > theirs >= 0


def test_a_layer_reads_what_its_parts_do(table):
    plan = table.lowered("gpt-oss-120b", replace(table.SHAPES["gpt-oss-120b"], layers=2))
    problems = [table.build(plan, plan.tree, whole_layers=whole).problem for whole in (True, False)]
    whole, parts = (sum(atom.effort.reads for atom in problem.atoms) for problem in problems)
    assert len(problems[0].atoms) < len(problems[1].atoms)
    assert whole == pytest.approx(parts)
    assert whole > plan.tree.prefix_bytes[-1] / 30  # of the experts, one in thirty-two; of the rest all


def rows_of(plan):
    return [unit.path for unit in plan.units if unit.by_rows]


def placed(table, name, memory, *, layers=None, rest=None, **options):
    shape = table.SHAPES[name]
    shape = shape if layers is None else replace(shape, layers=layers)
    devices = (Device("cuda:0", memory), *(rest or (Device("cpu", 1024 * table.GIB),)))
    plan = replace(table.lowered(name, shape), devices=devices)
    return table.compile_lowered(plan, table.Options(**options), fresh=True)


def test_experts_that_are_streamed_travel_by_rows(table):
    plan = placed(table, "Qwen3-30B-A3B", 24 * table.GIB, offload="stream")
    experts = [unit for unit in plan.units if unit.path.endswith("mlp.experts")]
    assert experts
    assert all(unit.by_rows and (unit.store, unit.run) == ("cpu", "cuda:0") for unit in experts)
    assert verify(plan) == ()
    assert parse(print_plan(plan, with_modules=True)) == plan
    stacks = 2 * sum(plan.tree.subtree_bytes(plan.tree.module_index[unit.path]) for unit in experts)
    assert plan.outcome.predicted.token < stacks / 24e9 / 4  # of 128 experts a token takes 8


def test_experts_that_the_host_cannot_hold_are_computed_there_from_disk(table):
    rest = Device("cpu", 61 * table.GIB), Device("disk", None)
    plan = placed(table, "Mixtral-8x7B", 12 * table.GIB, rest=rest)
    experts = {(unit.store, unit.run) for unit in plan.units if unit.path.endswith("mlp.experts")}
    assert {("cpu", "cpu"), ("disk", "cpu")} <= experts
    attention = {unit.run for unit in plan.units if unit.path.endswith("self_attn")}
    assert attention <= {"cuda:0"}
    assert plan.outcome.predicted.token < 2  # streaming what is on disk, or the most bytes, takes 2.05 s


def test_a_table_that_is_streamed_travels_by_rows(table):
    plan = placed(table, "gemma-2-27B", 10 * table.GIB, offload="stream")
    assert rows_of(plan) == []  # it is tied to the head, which is multiplied
    plan = placed(table, "Llama-3.1-8B", 2 * table.GIB, offload="stream")
    assert rows_of(plan) == ["model.embed_tokens"]


def test_what_is_left_of_a_card_keeps_rows_where_that_pays(table):
    whole = sum(table.lowered("Mixtral-8x7B", replace(table.SHAPES["Mixtral-8x7B"], layers=4)).tree.nbytes)
    memory = whole - 1300 * 2**20
    plan = placed(table, "Mixtral-8x7B", memory, layers=4, offload="stream")
    assert len([path for path in rows_of(plan) if path.endswith("experts")]) == 2
    (cache,) = plan.caches
    assert (cache.device, cache.patterns, cache.added) == ("cuda:0", ("model.layers.*.mlp.experts",), True)
    assert plan.ledger[0].row_cache == cache.nbytes > 2**29
    assert verify(plan) == ()
    assert plan.ledger[0].total <= memory
    again = table.compile_lowered(plan, table.Options(offload="stream"), fresh=False)
    assert again.units == plan.units
    assert again.caches == plan.caches

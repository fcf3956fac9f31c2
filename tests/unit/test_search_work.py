"""Work: what a trace measured decides where time is spent, not the bytes alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from compile_plan.compiler.placing.findings import say_needs
from compile_plan.compiler.search.atoms import build
from compile_plan.compiler.search.costs import Costs, atom_seconds
from compile_plan.compiler.search.objective import bound_of, throughput
from compile_plan.compiler.search.problem import Place
from compile_plan.ir import Device, Work, Workload
from search_models import leaves, placed, plan_of, stored, where

MIB = 2**20
ONE = Workload(rows=1, prompt=1, tokens=0)


def test_what_computes_much_goes_to_the_device_that_computes_fast():
    devices = (
        Device("cuda:0", 100, bandwidth=10**9, flops=10**6),
        Device("cuda:1", 100, bandwidth=10**9, flops=10**7),
        Device("cpu", 999),
    )
    plan = plan_of(leaves(a=60, b=60), devices)
    heavy_first = replace(plan, work=(Work(10**9, "a"), Work(10**6, "b")))
    heavy_last = replace(plan, work=(Work(10**6, "a"), Work(10**9, "b")))
    assert where(placed(heavy_first, objective="latency"))["a"] == "cuda:1"
    assert where(placed(heavy_last, objective="latency"))["b"] == "cuda:1"


def test_throughput_shares_out_the_work_and_not_the_bytes():
    devices = {"cuda:0": 100, "cuda:1": 100, "cpu": 999}
    plan = plan_of(leaves(a=10, b=10, c=10, d=10), devices)
    assert stored(placed(plan, objective="throughput")) == {"cuda:0": 20, "cuda:1": 20, "cpu": 0}
    busy = replace(plan, work=(Work(3 * 10**15, "a"), *(Work(10**15, name) for name in "bcd")))
    assert (
        stored(placed(busy, objective="throughput"))[where(placed(busy, objective="throughput"))["a"]] == 10
    )


def test_a_table_that_is_looked_up_in_is_computed_where_it_lies():
    plan = plan_of(leaves(table=60 * MIB, a=50 * MIB, b=50 * MIB), {"cuda:0": 100 * MIB, "cpu": 999 * MIB})
    work = (Work(0, "table", 8), Work(10**9, "a", 8), Work(10**9, "b", 8))
    found = where(placed(replace(plan, work=work), objective="latency", offload="auto"))
    assert found == {"table": "cpu", "a": "cuda:0", "b": "cuda:0"}


@pytest.mark.parametrize(
    ("work", "prompt", "seconds"),
    [
        ((), 4, 400 / 50),  # unmeasured: every weight, two operations, two bytes a weight
        ((Work(800, "a", 4),), 4, 800 / 50),
        ((Work(800, "a", 4),), 8, 1600 / 50),  # twice the tokens
        ((Work(0, "a", 4),), 4, 0.0),
    ],
)
def test_seconds_of_an_atom(work, prompt, seconds):
    plan = replace(plan_of(leaves(a=100), (Device("cuda:0", 200, bandwidth=10**6, flops=50),)), work=work)
    problem = build(plan, plan.tree, whole_layers=False).problem
    made = atom_seconds(Costs(problem), problem.atoms[0], Place(0, 0), Workload("generate", 1, prompt, 0))
    assert made == pytest.approx(seconds, abs=2e-4)


def test_few_chosen_experts_are_read_and_not_all():
    plan = plan_of(leaves(a=1000), (Device("cuda:0", 2000, bandwidth=100, flops=10**12),))
    problem_of = {
        flops: build(replace(plan, work=(Work(flops, "a", 1),)), plan.tree, whole_layers=False).problem
        for flops in (20, 10**6)
    }
    weights = sum(len(shape) and shape[0] for shape in plan.tree.shapes)
    few, all_ = (atom_seconds(Costs(p), p.atoms[0], Place(0, 0), ONE) for p in problem_of.values())
    assert few == pytest.approx(20 / 2 * (1000 / weights) / 100)
    assert all_ == pytest.approx(1000 / 100)


def test_rows_of_one_path_and_of_what_is_inside_add_up():
    plan = plan_of(leaves(a=30, b=10), (Device("cuda:0", 99, bandwidth=10**9, flops=1),))
    plan = replace(plan, work=(Work(400, ""), Work(7, "b")))
    atoms = build(plan, plan.tree, whole_layers=False).problem.atoms
    assert [atom.effort.flops for atom in atoms] == [300, 107]


def test_no_placement_beats_the_bound_of_throughput():
    devices = (Device("cuda:0", 99, flops=10), Device("cuda:1", 99, flops=30), Device("cpu", 999))
    plan = plan_of(leaves(a=9, b=5, c=14, d=2), devices)
    plan = replace(plan, work=tuple(Work(flops, path) for flops, path in ((10, "a"), (90, "b"), (40, "c"))))
    problem = build(plan, plan.tree, whole_layers=False).problem
    bound = bound_of("throughput", problem, ONE)
    best = min(
        throughput(problem, [Place(bits >> i & 1, bits >> i & 1) for i in range(len(problem.atoms))], ONE)
        for bits in range(2 ** len(problem.atoms))
    )
    assert 0 < bound <= best


def test_latency_puts_the_part_that_computes_least_on_the_cpu_though_more_bytes_leave():
    plan = plan_of(leaves(table=60 * MIB, a=50 * MIB, b=50 * MIB), {"cuda:0": 110 * MIB, "cpu": 999 * MIB})
    plan = replace(plan, work=(Work(0, "table", 8), Work(10**9, "a", 8), Work(10**9, "b", 8)))
    assert where(placed(plan, objective="accelerator-bytes", offload="compute"))["table"] == "cuda:0"
    quick = placed(plan, objective="latency", offload="compute")
    assert where(quick) == {"table": "cpu", "a": "cuda:0", "b": "cuda:0"}
    assert quick.outcome.predicted.simple


def test_what_is_needed_besides_weights_is_named_where_it_matters():
    said = "250B (50B of it kv cache, up to 400B of activations beside it)"
    assert say_needs(250, 50, "kv cache", 400) == said
    assert say_needs(202, 2, "kv cache", 3) == "202B"

"""The clock may end a search, and nothing else: the same bytes, a code, and never less for more time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from brute_force import Judge, instance
from compile_plan.backends.msgpack_file import encode_plan
from compile_plan.compiler.driver.compile import compile_lowered
from compile_plan.compiler.driver.options import Options
from compile_plan.compiler.search import clock
from compile_plan.compiler.search.highs import Answer
from compile_plan.compiler.search.misfits import undecided_error
from compile_plan.ir import Device, Model, Plan, PlanError, unit_of_tensors
from search_models import tree_of

SIZES = (61, 53, 47, 43, 41, 37, 31, 29, 23, 19, 17, 13, 11, 7, 5)
"""No two alike, so that nothing short of the solver can place them."""


def lowered(*budgets):
    devices = (*(Device(f"cuda:{i}", size) for i, size in enumerate(budgets)), Device("cpu", 10_000))
    tree = tree_of({f"m{i}": size for i, size in enumerate(SIZES)})
    return Plan(Model("m"), devices=devices, tree=tree)


def compiled(plan, **options):
    return compile_lowered(plan, Options(objective="accelerator-bytes", offload="stream", **options))


def codes(plan):
    return {diagnostic.code for diagnostic in plan.diagnostics}


@pytest.fixture
def stopped(monkeypatch):
    """A clock that has always run out when a program is to be solved; without a limit it never does."""
    real = clock.solve

    def solve(program, *, seconds, **limits):
        return real(program, **limits) if seconds > 1e6 else Answer("clock", (), 1e9, -1e9)

    monkeypatch.setattr(clock, "solve", solve)


def test_nobody_waits_for_a_search_that_ends_by_itself():
    first, second = compiled(lowered(90, 80, 70)), compiled(lowered(90, 80, 70), time_limit=600)
    assert "search-ended" not in codes(first)
    assert first.units == second.units
    assert encode_plan(first) == encode_plan(compiled(lowered(90, 80, 70)))


@pytest.mark.usefixtures("stopped")
def test_a_search_that_the_clock_ends_says_so_and_keeps_what_was_known():
    plan = compiled(lowered(90, 80, 70))
    assert "search-ended" in codes(plan)
    assert all(unit.store for unit in plan.units)
    assert encode_plan(plan) == encode_plan(compiled(lowered(90, 80, 70)))


@pytest.mark.usefixtures("stopped")
def test_the_clock_never_decides_whether_there_is_a_plan():
    """All fits on the cards together, in one order of all, and the CPU has no room for what is left over."""
    plan = replace(lowered(151, 146, 140), devices=(*lowered(151, 146, 140).devices[:3],))
    assert all(unit.store.startswith("cuda") for unit in compiled(plan).units)


def test_no_time_is_the_simple_plan_and_more_time_never_keeps_less():
    simple, best = compiled(lowered(90, 80, 70), time_limit=0), compiled(lowered(90, 80, 70))
    assert simple.outcome.status == "kept"
    assert "search-ended" not in codes(simple)
    assert simple.outcome.value <= best.outcome.value


def kept(problem, plan):
    index = {device.name: i for i, device in enumerate(plan.devices)}
    owners = unit_of_tensors(plan.tree, plan.units)
    return Judge(problem).kept([(index[plan.units[o].store], index[plan.units[o].run]) for o in owners])


@pytest.mark.parametrize("seed", range(0, 120, 3))
def test_more_time_never_keeps_less_whatever_the_rules(seed):
    problem = replace(instance(seed), objective="accelerator-bytes")
    written = (problem.written,) if problem.written.units or problem.written.constraints else ()
    found = []
    for limit in (0, 60):
        options = Options(
            objective=problem.objective, offload=problem.offload, margin=problem.margin, time_limit=limit
        )
        try:
            found.append(kept(problem, compile_lowered(problem.lowered, options, written)))
        except PlanError as error:
            found.append({d.code for d in error.diagnostics if d.severity == "error"})
    assert found[0] == found[1] if isinstance(found[1], set) else found[0] <= found[1]


def test_nothing_found_and_nothing_proved_is_no_misfit():
    assert undecided_error().code == "placement-not-found"

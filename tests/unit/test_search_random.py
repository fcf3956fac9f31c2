"""Whatever the problem: a lawful plan no worse than the simple one, or an error."""

from __future__ import annotations

from dataclasses import replace

import pytest
from compile_plan.compiler import compile_model
from compile_plan.compiler.driver.compile import compile_lowered
from compile_plan.compiler.driver.options import Options
from compile_plan.grammar import parse
from compile_plan.ir import Never, PlanError, host_of, is_accelerator, unit_of_tensors, verify
from compile_plan.ir.patterns import match_paths
from hypothesis import given, settings
from search_problems import problems
from torch import nn

MISTAKES = {
    "budget-exceeded",
    "contradiction",
    "does-not-fit",
    "pin-inside-atomic",
    "pins-over-budget",
    "split-of-leaf",
}
"""What a random problem may be refused for."""


def refusals(error):
    return {d.code for d in error.diagnostics if d.severity == "error"}


def compiled(lowered, written, options):
    overrides = (written,) if written.units or written.constraints else ()
    return compile_lowered(lowered, options, overrides)


def on_accelerators(plan):
    return sum(a.weights + a.buffers for a in plan.ledger if is_accelerator(a.device))


@given(problems())
@settings(max_examples=40)
def test_every_problem_has_a_lawful_plan_or_an_error(problem):
    try:
        plan, refused = compiled(*problem), set()
    except PlanError as error:
        plan, refused = None, refusals(error)
    assert refused <= MISTAKES
    if plan is None:
        return
    assert verify(plan) == ()
    assert all(unit.store and unit.run for unit in plan.units)
    assert {account.device for account in plan.ledger} == {device.name for device in plan.devices}
    if plan.outcome is not None:
        assert plan.outcome.status in {"optimal", "in-order", "unproven", "kept"}
    assert compiled(*problem) == plan


@given(problems())
@settings(max_examples=40)
def test_the_search_keeps_no_less_on_accelerators_than_first_fit(problem):
    lowered, written, options = problem
    options = replace(options, objective="accelerator-bytes", offload="stream")
    try:
        simple = compiled(lowered, written, replace(options, strategy="accelerate", fallback=False))
    except PlanError:
        return
    if any(host_of(device.name) for device in lowered.devices):
        return  # between hosts only whole layers are cut
    listed = {device.name for device in lowered.devices}
    if verify(simple) or simple.diagnostics or not listed.issuperset(unit.store for unit in simple.units):
        return  # accelerate takes a disk nobody listed
    assert on_accelerators(compiled(lowered, written, options)) >= on_accelerators(simple)


def test_rows_that_name_a_column_twice_do_not_stop_the_solver():
    """A cache and weights on one device of a pool that is too small once left the solver running."""
    from compile_plan.ir import Demand, Device
    from search_models import leaves, plan_of

    devices = tuple(
        Device(f"cuda:{i}", size, pool="u", pool_memory=47) for i, size in enumerate((32, 73, 59))
    )
    demands = (Demand(28, "a", "kv cache"), Demand(20, "c", "kv cache"))
    plan = replace(plan_of(leaves(a=3, b=3, c=1), devices, demands=demands), units=())
    with pytest.raises(PlanError) as caught:
        compile_lowered(plan, Options())
    assert refusals(caught.value) == {"does-not-fit"}


@pytest.mark.parametrize("pool", [{}, {"pool": "u", "pool_memory": 70}])
def test_what_belongs_to_a_pin_that_has_no_room_for_it_is_an_error(pool):
    from compile_plan.ir import Device, Plan, Reason, Together, Unit
    from search_models import leaves, plan_of

    devices = (*(Device(f"cuda:{i}", 60, **pool) for i in range(2)), Device("cpu", 500))
    plan = replace(plan_of(leaves(a=30, b=45, c=10), devices), units=())
    pin = Unit("a", "cuda:1", "cuda:1", Reason.WRITTEN)
    lines = Plan(plan.model, units=(pin,), constraints=(Together(("a", "b")),))
    with pytest.raises(PlanError, match="`cuda:1` holds 75B but has 60B"):
        compile_lowered(plan, Options(), (lines,))


@given(problems())
@settings(max_examples=40)
def test_what_is_never_somewhere_is_neither_stored_nor_run_there(problem):
    lowered, written, options = problem
    for strategy in ("auto", "accelerate"):
        try:
            plan = compiled(lowered, written, replace(options, strategy=strategy))
        except PlanError:
            continue
        owners = unit_of_tensors(plan.tree, plan.units)
        for rule in (each for each in plan.constraints if isinstance(each, Never)):
            paths = match_paths(plan.tree, rule.pattern)
            held = {owners[tensor] for path in paths for tensor in plan.tree.covered(path)}
            assert all(rule.device not in {plan.units[i].store, plan.units[i].run} for i in held)


def test_no_policy_computes_where_a_line_forbids_it():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    options = {"max_memory": {"cuda:0": 400, "cpu": 0}, "strategy": "accelerate"}
    options["overrides"] = [parse('plan 1\nmodel "m"\nnever 1 on cpu\n')]
    assert {unit.run for unit in compile_model(model, offload="stream", **options).units} == {"cuda:0"}
    with pytest.raises(PlanError, match="would run on cpu, which a `never` line forbids"):
        compile_model(model, offload="compute", **options)

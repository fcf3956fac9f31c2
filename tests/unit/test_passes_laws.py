"""Every strategy, any model, any budgets: a lawful plan or a diagnostic, and nothing else."""

from __future__ import annotations

import math

import pytest
from compile_plan.compiler import compile_model
from compile_plan.compiler.lines.option_lines import OFFLOADS, STRATEGIES
from compile_plan.ir import Plan, PlanError, is_accelerator, unit_of_tensors, verify
from hypothesis import event, given, settings
from hypothesis import strategies as st
from module_strategies import modules, requests

QUICK = settings(max_examples=250, derandomize=True)
LINES = (
    "never ** on cuda:0",
    "never ** on disk",
    "together ** **",
    "reserve 20B on cuda:0",
    'reserve 1B on cpu for "kv cache"',
    "split *",
    "place * on cpu",
    "place * on cuda:0",
)


def real_bytes(model):
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def check(plan: Plan, strategy: str, offload: str) -> None:
    assert verify(plan) == ()
    assert plan.tree is not None
    owners = unit_of_tensors(plan.tree, plan.units)
    assert len(owners) == len(plan.tree.tensor_names)
    assert -1 not in owners
    for unit in plan.units:
        assert unit.store is not None
        assert unit.reason is not None
    assert len(plan.ledger) == (len(plan.devices) if plan.units else 0)
    for device, account in zip(plan.devices, plan.ledger, strict=False):
        assert device.memory is None or account.total <= device.memory, (strategy, device, account)
    streamed = {unit.store for unit in plan.units if unit.store != unit.run}
    allowed = {"stream": {"cpu", "disk"}, "auto": {"cpu", "disk"}, "compute": {"disk"}, "none": set()}
    assert streamed <= allowed[offload]


@st.composite
def commands(draw: st.DrawFn):
    request = draw(requests())
    options = {
        "max_memory": {key: size for key, size in request.max_memory.items() if key != "disk"},
        "strategy": draw(st.sampled_from(STRATEGIES)),
        "offload": draw(st.sampled_from(OFFLOADS)),
        "dtype": request.options["dtype"],
        "special_dtypes": request.options["special_dtypes"],
        "offload_buffers": request.options["offload_buffers"],
        "fallback": request.options["fallback_allocation"],
        "margin": draw(st.sampled_from((0, 0, 0, 7))),
        "time_limit": 0.2,
    }
    if draw(st.booleans()):
        options["max_memory"]["disk"] = draw(st.sampled_from((10, 100, 10**9)))
    lines = draw(st.lists(st.sampled_from(LINES), max_size=2, unique=True))
    if lines:
        options["overrides"] = "plan 1\n" + "\n".join(lines) + "\n"
    return request.model, options


def compiles(model, options):
    try:
        plan = compile_model(model, **options)
    except PlanError as error:
        event(f"{options['strategy']}: {error.diagnostics[0].code}")
        return
    event(f"{options['strategy']}: a plan")
    check(plan, options["strategy"], options["offload"])


@given(commands())
@QUICK
def test_a_plan_or_diagnostics(command):
    compiles(*command)


@pytest.mark.slow
@given(commands())
@settings(QUICK, max_examples=20_000, derandomize=False)
def test_a_plan_or_diagnostics_over_a_long_run(command):
    compiles(*command)


@given(modules(), st.sampled_from(STRATEGIES), st.integers(1, 3), st.booleans())
@QUICK
def test_what_fits_has_no_diagnostics(model, strategy, cards, with_host):
    total = max(real_bytes(model), 1)
    budgets = dict.fromkeys(range(cards), 3 * total) | ({"cpu": total} if with_host else {})
    plan = compile_model(model, max_memory=budgets, strategy=strategy)
    assert plan.diagnostics == ()
    assert all(is_accelerator(unit.store) and unit.run == unit.store for unit in plan.units)


@given(modules(), st.sampled_from(STRATEGIES))
@QUICK
def test_the_same_request_gives_the_same_plan(model, strategy):
    budget = math.ceil(real_bytes(model) * 0.6) + 1
    budgets = {0: budget, 1: budget, "cpu": 10**6}
    first, second = (compile_model(model, max_memory=budgets, strategy=strategy) for _ in range(2))
    assert first == second
    assert first.ledger == second.ledger
    assert first.diagnostics == second.diagnostics

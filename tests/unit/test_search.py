"""The parts of the search, each on plain numbers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from compile_plan.compiler.search.problem import Atom, Place, Problem, is_legal
from compile_plan.compiler.search.staying import with_room_used
from compile_plan.ir import (
    Atomic,
    Demand,
    Device,
    Never,
    Reason,
    Reserve,
    Split,
    Together,
    Unit,
)
from search_models import language_model, leaves, placed, plan_of, stored, tree_of, where
from steps import counted

BLOCKS = (Atomic("Blk", by_class=True),)


def test_a_pin_stays_and_the_rest_is_solved_around_it():
    tree = leaves(a=30, b=30, c=40)
    pin = Unit("b", "cuda:1", "cuda:1", Reason.WRITTEN)
    plan = placed(plan_of(tree, {"cuda:0": 70, "cuda:1": 30, "cpu": 99}, units=(Unit("a"), pin, Unit("c"))))
    assert where(plan) == {"a": "cuda:0", "b": "cuda:1", "c": "cuda:0"}
    assert plan.units[1] is pin


def test_what_is_tied_to_a_pin_follows_it():
    tree = tree_of({"a": 30, "b": 30, "c": 30}, [("a", "c")])
    pin = Unit("c", "cuda:1", "cuda:1", Reason.WRITTEN)
    plan = placed(plan_of(tree, {"cuda:0": 90, "cuda:1": 90, "cpu": 99}, units=(Unit("a"), Unit("b"), pin)))
    assert where(plan) == {"a": "cuda:1", "b": "cuda:0", "c": "cuda:1"}
    assert plan.units[0].reason is Reason.TIED


def test_never_keeps_a_module_off_a_device():
    tree = leaves(a=10, b=10)
    plan = placed(plan_of(tree, {"cuda:0": 50, "cuda:1": 50, "cpu": 99}, constraints=(Never("a", "cuda:0"),)))
    assert where(plan)["a"] == "cuda:1"


def test_together_is_one_atom():
    tree = leaves(a=10, b=20, c=10)
    together = (Together(("a", "c")),)
    plan = placed(plan_of(tree, {"cuda:0": 20, "cuda:1": 20, "cpu": 99}, constraints=together))
    assert where(plan)["a"] == where(plan)["c"]
    assert stored(plan)["cpu"] == 0


def test_split_modules_are_not_merged_back():
    tree = tree_of({"a": {"x": 5, "y": 5}, "b": 10})
    plan = placed(plan_of(tree, {"cuda:0": 5, "cuda:1": 20, "cpu": 99}, constraints=(Split("a"),)))
    assert {"a.x", "a.y"} <= set(where(plan))


def test_a_cache_is_charged_where_the_module_runs():
    demands = (Demand(25, "b", "kv cache"),)
    tree = leaves(a=10, b=10)
    plan = placed(plan_of(tree, {"cuda:0": 40, "cuda:1": 40, "cpu": 99}, demands=demands))
    assert sum(account.kv_cache for account in plan.ledger) == 25
    assert all(account.total <= 40 for account in plan.ledger)


def test_activations_of_modules_on_one_device_are_not_added_up():
    demands = (Demand(20, "a", "activations"), Demand(15, "b", "activations"))
    plan = placed(plan_of(leaves(a=10, b=10), {"cuda:0": 40, "cpu": 99}, demands=demands))
    assert where(plan) == {"": "cuda:0"}
    assert plan.ledger[0].activations == 20


def test_a_reserve_and_a_margin_are_kept_free():
    devices = (Device("cuda:0", 50, margin=10), Device("cpu", 99))
    plan = placed(plan_of(leaves(a=20, b=20), devices, reserves=(Reserve(10, "cuda:0", "mine"),)))
    assert (plan.ledger[0].reserve, plan.ledger[0].margin) == (10, 10)
    assert plan.ledger[0].total <= 50
    assert stored(plan)["cpu"] == 20 + 20 - plan.ledger[0].weights


@pytest.mark.parametrize(
    ("objective", "expected"),
    [("balance", [20, 20]), ("headroom", [30, 10]), ("fewest-devices", [40, 0])],
)
def test_objectives_share_out_differently(objective, expected):
    devices = (Device("cuda:0", 60), Device("cuda:1", 60)) if objective != "headroom" else (
        Device("cuda:0", 60), Device("cuda:1", 40)
    )  # fmt: skip
    plan = placed(plan_of(leaves(a=10, b=10, c=10, d=10), (*devices, Device("cpu", 99))), objective=objective)
    held = stored(plan)
    assert sorted([held["cuda:0"], held["cuda:1"]], reverse=True) == sorted(expected, reverse=True)
    assert plan.outcome.objective == objective


def test_throughput_gives_the_faster_device_more():
    devices = (
        Device("cuda:0", 100, bandwidth=1000, flops=10**6),
        Device("cuda:1", 100, bandwidth=3000, flops=3 * 10**6),
        Device("cpu", 99),
    )
    plan = placed(plan_of(leaves(**{f"l{i}": 10 for i in range(8)}), devices), objective="throughput")
    assert stored(plan) == {"cuda:0": 20, "cuda:1": 60, "cpu": 0}


def test_auto_offload_computes_on_the_cpu_behind_a_slow_link():
    def at(link):
        host = Device("cpu", 1 << 40, bandwidth=10**9, link=10**13)
        devices = (Device("cuda:0", 40 << 20, link=link), host)
        return placed(plan_of(leaves(a=30 << 20, b=20 << 20, c=20 << 20), devices), offload="auto")

    assert any(unit.run == "cpu" for unit in at(10**6).units)
    assert all(unit.run == "cuda:0" for unit in at(10**13).units)


def test_equal_layers_cost_the_same_however_many():
    budgets = {f"cuda:{i}": 10_000 for i in range(8)} | {"cpu": 10**9}
    many = plan_of(language_model(400, 300, 5000, 5000), budgets, constraints=BLOCKS)
    plan, calls = counted(lambda: placed(many, objective="accelerator-bytes"))
    assert plan.outcome.gap == 0
    assert calls < 400 * 5_000


def test_a_model_that_fits_needs_no_solver():
    code = (
        "import sys; from search_models import *; "
        "p = placed(plan_of(language_model(100, 30, 50, 50), {'cuda:0': 1600, 'cuda:1': 1600, 'cpu': 9})); "
        "assert len(p.units) > 1, p.units; assert 'highspy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=_environment("0"))


def test_the_same_plan_under_every_hash_seed():
    code = (
        "from search_models import *; from compile_plan.ir import Atomic; "
        "p = placed(plan_of(tree_of({'e': 900, 'l:ModuleList': {f'{i}:Blk': {'a': 40, 'b': 30} "
        "for i in range(30)}, 'h': 900}, [('e', 'h')]), {'cuda:0': 900, 'cuda:1': 700, 'cpu': 10**6})); "
        "print(p.units, p.ledger, p.outcome)"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, env=_environment(seed)
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(answers) == 1


def _environment(seed):
    support = Path(__file__).parents[1] / "support"
    return {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(support)}


@pytest.mark.parametrize("offload", ["stream", "compute", "auto", "none"])
def test_a_disk_alone_computes_nothing_whatever_its_room(offload):
    plan = placed(plan_of(leaves(a=30, b=20), {"disk": None}), offload=offload)
    (error,) = plan.diagnostics
    assert (error.code, error.help) == ("no-usable-device", "list `cpu` or an accelerator as well")


def test_a_written_plan_without_room_for_its_buffer_is_warned_about():
    written = (
        Unit("a", "cuda:0", "cuda:0", Reason.WRITTEN),
        Unit("b", "cpu", "cuda:0", Reason.WRITTEN),
    )
    plan = placed(plan_of(leaves(a=30, b=20), {"cuda:0": 35, "cpu": 99}, units=written))
    (warning,) = [d for d in plan.diagnostics if d.code == "streaming-buffer"]
    assert "15B more" in warning.help
    assert plan.ledger[0].total == 35
    enough = placed(plan_of(leaves(a=30, b=20), {"cuda:0": 50, "cpu": 99}, units=written))
    assert "streaming-buffer" not in {d.code for d in enough.diagnostics}


def test_pins_beyond_a_budget_are_an_error_not_a_crash():
    written = (Unit("a", "cuda:0", "cuda:0", Reason.WRITTEN), Unit("b"))
    plan = placed(plan_of(leaves(a=30, b=20), {"cuda:0": 25, "cpu": 99}, units=written))
    assert "budget-exceeded" in {d.code for d in plan.diagnostics}


@pytest.mark.parametrize(
    ("room", "caches", "stays"),
    [(110, (), (2,)), (109, (), ()), (140, (), (1, 2)), (140, (9, 0), (1,))],
)
def test_what_is_brought_stays_where_that_has_room_and_holds_no_rows(room, caches, stays):
    atoms = (Atom((0,), 60), Atom((1,), 30, stream=30), Atom((2,), 20, stream=20, rows=True))
    devices = (Device("cuda:0", room), Device("cpu", 999))
    problem = Problem(devices, (room, 999), atoms, caches=caches)
    found = with_room_used(problem, [Place(0, 0), Place(1, 0), Place(1, 0)])
    assert is_legal(problem, found)
    assert tuple(index for index in (1, 2) if not found[index].streamed) == stays

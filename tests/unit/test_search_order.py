"""Equal cards are named in the order in which the model meets them."""

from __future__ import annotations

from itertools import groupby

import pytest
from compile_plan.compiler.driver.compile import compile_lowered
from compile_plan.compiler.driver.options import Options
from compile_plan.compiler.search.atoms import build
from compile_plan.compiler.search.neighbours import with_neighbours
from compile_plan.compiler.search.problem import Place, count_hops, is_legal
from compile_plan.ir import Device, Model, Never, Plan
from search_models import tree_of


def first_met(sizes, budgets, rules=(), **options):
    """Return the cards in the order in which the model runs on them for the first time."""
    devices = (*(Device(f"cuda:{i}", size) for i, size in enumerate(budgets)), Device("cpu", 10_000))
    tree = tree_of({f"m{i}": size for i, size in enumerate(sizes)})
    plan = compile_lowered(
        Plan(Model("m"), devices=devices, tree=tree, constraints=rules), Options(**options)
    )
    runs = [run for run, _ in groupby(unit.run for unit in plan.units) if run != "cpu"]
    return list(dict.fromkeys(runs))


@pytest.mark.parametrize("objective", ["accelerator-bytes", "headroom", "latency", None])
@pytest.mark.parametrize("offload", ["stream", "compute", "auto"])
@pytest.mark.parametrize("sizes", [(10,) * 8, (31, 17, 23, 29, 11, 9), (30, 40, 10, 10, 10), (9, 8, 7, 21)])
def test_the_first_of_equal_cards_comes_first(sizes, objective, offload):
    cards = first_met(sizes, (35, 35, 35), objective=objective, offload=offload)
    assert cards == sorted(cards)


def test_cards_that_are_not_equal_keep_their_names():
    rules = (Never("m0", "cuda:0"),)
    assert first_met((10, 10, 10, 10), (20, 20), rules)[0] == "cuda:1"


def problem_of(sizes, budgets):
    devices = (*(Device(f"cuda:{i}", size) for i, size in enumerate(budgets)), Device("cpu", 10_000))
    plan = Plan(Model("m"), devices=devices, tree=tree_of({f"m{i}": size for i, size in enumerate(sizes)}))
    return build(plan, plan.tree).problem


@pytest.mark.parametrize(
    ("last", "fewer"), [(1000, True), (902, True), (900, False)], ids=["room", "just", "no room"]
)
def test_what_is_light_goes_where_its_neighbours_are(last, fewer):
    """Layers of 300 bytes and norms of 2, half of the norms on the card that has none of the layers."""
    problem = problem_of((300, 2, 300, 1, 300), (last, 1000))
    before = [Place(0, 0), Place(1, 1), Place(0, 0), Place(2, 2), Place(0, 0)]
    after = with_neighbours(problem, before)
    assert is_legal(problem, after)
    assert after[::2] == before[::2]
    assert after[3] == before[3]  # it is no accelerator's
    assert count_hops(problem, after) == (2 if fewer else 4)


def test_what_is_heavy_stays_though_its_neighbours_are_elsewhere():
    problem = problem_of((300, 20, 300), (1000, 1000))
    before = [Place(0, 0), Place(1, 1), Place(0, 0)]
    assert with_neighbours(problem, before) == before


def test_equal_parts_change_places_where_their_neighbours_are():
    """Two layers of two parts, and a part of each on the other's card: nothing has room for more."""
    problem = problem_of((300, 200, 300, 200), (500, 500))
    crossed = [Place(0, 0), Place(1, 1), Place(1, 1), Place(0, 0)]
    after = with_neighbours(problem, crossed)
    assert is_legal(problem, after)
    assert (count_hops(problem, crossed), count_hops(problem, after)) == (2, 1)

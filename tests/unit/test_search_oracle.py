"""The search against every possible placement of small models."""

from __future__ import annotations

from itertools import product

from compile_plan.ir import CPU, Severity
from hypothesis import given, settings
from hypothesis import strategies as st
from search_models import leaves, placed, plan_of, stored, tree_of, where

BYTES = {"objective": "accelerator-bytes", "offload": "stream"}


def spilled(plan):
    return sum(n for device, n in stored(plan).items() if not device.startswith("cuda"))


def least_spill(groups, streams, budgets):
    """Return the fewest bytes off the accelerators over all placements, streaming what is off them.

    ``groups`` are sizes of atoms, ``streams`` their streaming buffers; what can be streamed nowhere
    alone is computed on the CPU, whose budget is unlimited here.
    """
    devices = range(len(budgets))
    choices = []
    for size, stream in zip(groups, streams, strict=True):
        able = [("stream", d) for d in devices if stream <= budgets[d] and budgets[d] > 0]
        choices.append(
            [(size, stream, how, d) for how, d in [("on", d) for d in devices] + (able or [("cpu", 0)])]
        )
    best = None
    for combination in product(*choices):
        loads, buffers, off = list(budgets), [0] * len(budgets), 0
        for size, stream, how, device in combination:
            if how == "on":
                loads[device] -= size
            else:
                off += size
                if how == "stream":
                    buffers[device] = max(buffers[device], stream)
        if all(room >= buffer for room, buffer in zip(loads, buffers, strict=True)) and (
            best is None or off < best
        ):
            best = off
    return best


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=7), st.lists(st.integers(0, 60), min_size=1, max_size=3)
)
@settings(max_examples=150)
def test_no_spill_when_any_assignment_fits(sizes, budgets):
    names = {f"cuda:{i}": budget for i, budget in enumerate(budgets)} | {CPU: 10_000}
    plan = placed(plan_of(leaves(**{f"m{i}": n for i, n in enumerate(sizes)}), names))
    fits = any(
        all(
            sum(n for n, d in zip(sizes, choice, strict=True) if d == device) <= budgets[device]
            for device in range(len(budgets))
        )
        for choice in product(range(len(budgets)), repeat=len(sizes))
    )
    no_accelerator = all(budget == 0 for budget in budgets)
    assert (spilled(plan) == 0) == fits or no_accelerator
    assert bool(plan.diagnostics) == (not fits and not no_accelerator)


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=5), st.lists(st.integers(1, 60), min_size=1, max_size=2)
)
@settings(max_examples=150)
def test_spilled_bytes_are_the_fewest_possible(sizes, budgets):
    names = {f"cuda:{i}": budget for i, budget in enumerate(budgets)} | {CPU: 10_000}
    plan = placed(plan_of(leaves(**{f"m{i}": n for i, n in enumerate(sizes)}), names), **BYTES)
    expected = least_spill(sizes, sizes, budgets)
    assert expected is not None
    assert spilled(plan) == expected
    assert plan.outcome is not None
    assert plan.outcome.gap == 0 or expected == 0


@given(
    st.lists(st.integers(1, 30), min_size=3, max_size=6),
    st.lists(st.integers(1, 60), min_size=2, max_size=2),
    st.data(),
)
@settings(max_examples=100)
def test_tied_modules_are_one_atom(sizes, budgets, data):
    first, second = sorted(
        data.draw(st.lists(st.integers(0, len(sizes) - 1), min_size=2, max_size=2, unique=True))
    )
    sizes[second] = sizes[first]
    tree = tree_of({f"m{i}": n for i, n in enumerate(sizes)}, [(f"m{first}", f"m{second}")])
    names = {"cuda:0": budgets[0], "cuda:1": budgets[1], CPU: 10_000}
    plan = placed(plan_of(tree, names), **BYTES)
    once = [n for i, n in enumerate(sizes) if i != second]
    assert spilled(plan) == least_spill(once, once, budgets)
    if "" not in where(plan):
        assert where(plan)[f"m{first}"] == where(plan)[f"m{second}"]


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=6), st.lists(st.integers(1, 40), min_size=1, max_size=3)
)
@settings(max_examples=100)
def test_the_change_that_is_offered_avoids_every_spill(sizes, budgets):
    tree = leaves(**{f"m{i}": n for i, n in enumerate(sizes)})
    names = {f"cuda:{i}": budget for i, budget in enumerate(budgets)} | {CPU: 10_000}
    before = placed(plan_of(tree, names))
    assert all(diagnostic.severity is Severity.WARNING for diagnostic in before.diagnostics)
    for diagnostic in (each for each in before.diagnostics if each.code == "spill"):
        ways = diagnostic.help.removeprefix("or ").splitlines()
        more = next(way.removeprefix("or ") for way in ways if way.removeprefix("or ").startswith("+"))
        size, _, device = more.split(" and ")[0].removeprefix("+").partition("B on ")
        after = placed(plan_of(tree, names | {device: names[device] + int(size)}))
        assert spilled(after) == 0
        assert after.diagnostics == ()
        too_little = placed(plan_of(tree, names | {device: names[device] + int(size) - 1}))
        assert spilled(too_little) > 0

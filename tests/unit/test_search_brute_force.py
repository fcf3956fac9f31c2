"""The search against every placement of small problems, counted independently of it."""

from __future__ import annotations

import pytest
from brute_force import Judge, in_phases, instance
from compile_plan.compiler.driver.compile import compile_lowered
from compile_plan.compiler.driver.options import Options
from compile_plan.ir import PlanError, device_type, unit_of_tensors

QUICK = 200
REFUSALS = {
    "contradiction",
    "pin-inside-atomic",
    "pins-over-budget",
    "budget-exceeded",
    "does-not-fit",
    "split-of-leaf",
    "no-usable-device",
}
"""What lines may be refused for: they cannot hold together, or what they place alone does not fit."""


def outcome_of(problem):
    """Return the plan or the codes of the errors."""
    options = Options(
        objective=problem.objective,
        offload=problem.offload,
        time_limit=problem.time_limit,
        margin=problem.margin,
    )
    written = problem.written
    try:
        return compile_lowered(
            problem.lowered, options, (written,) if written.units or written.constraints else ()
        )
    except PlanError as error:
        return {d.code for d in error.diagnostics if d.severity == "error"}


def faults(seed):
    """Return what is wrong with the answer to one problem, in words."""
    return faults_of(instance(seed))


def faults_of(problem):
    judge = Judge(problem)
    if any(len(judge.fixed(atom)) > len({store for store, _ in judge.fixed(atom)}) for atom in judge.atoms):
        return []  # stored together and pinned to run apart: lawful, and nothing that is counted here
    found = outcome_of(problem)
    policy = "any" if problem.offload == "auto" else problem.offload
    legal = list(judge.placements(policy)) if not judge.contradicts() else []
    if not legal and policy != "none" and not judge.contradicts():
        policy, legal = "any", list(judge.placements("any"))
    if isinstance(found, set):
        return [f"{found}, but {legal[0]} is legal"] if legal or not found & REFUSALS else []
    if not legal and "streaming-buffer" in {d.code for d in found.diagnostics}:
        return []  # what lines say alone takes more than there is, and they are obeyed
    if not legal and problem.margin and problem.written.units:
        return []  # a margin yields to what is pinned
    return [*_broken(judge, found), *_not_best(judge, found, legal)]


def _broken(judge, plan):
    index = {device.name: i for i, device in enumerate(plan.devices)}
    units = [plan.units[owner] for owner in unit_of_tensors(plan.tree, plan.units)]
    places = [(index[unit.store], index[unit.run]) for unit in units]
    if judge.contradicts():
        yield "the lines contradict each other"
    for tensor, place in judge.pins.items():
        if places[tensor] != place:
            yield f"{judge.paths[tensor]} is at {places[tensor]}, pinned to {place}"
    for atom in judge.atoms:
        if len({places[t][0] for t in atom}) > 1:
            yield f"{[judge.paths[t] for t in atom]} are apart"
        if any(not judge.allowed(atom, places[t]) for t in atom):
            yield f"{[judge.paths[t] for t in atom]} at {[places[t] for t in atom]} breaks a rule"
    if over := judge.overloaded(places):
        yield f"{over} hold too much"
    free = {t for atom in judge.atoms if not judge.fixed(atom) for t in atom}
    if judge.problem.offload == "none" and {places[t][0] for t in free} & judge.hosts:
        yield "something is offloaded"


def _not_best(judge, plan, legal):
    index = {device.name: i for i, device in enumerate(plan.devices)}
    owners = unit_of_tensors(plan.tree, plan.units)
    places = [(index[plan.units[o].store], index[plan.units[o].run]) for o in owners]
    kept, best = judge.kept(places), max(map(judge.kept, legal), default=0)
    status = None if plan.outcome is None else plan.outcome.status
    in_bytes = judge.problem.objective is not None
    if kept < best and in_bytes and (status == "optimal" or judge.problem.time_limit):
        yield f"{kept} bytes are kept ({status}); {best} can be"
    if kept > best and plan.outcome is not None:
        yield f"{kept} bytes are kept, more than the {best} that can be"
    assert all(device_type(plan.devices[run].name) != "disk" for _, run in places)


@pytest.mark.parametrize("first", range(0, QUICK, 50))
def test_small_problems_are_solved_as_counting_through_does(first):
    found = {seed: wrong for seed in range(first, first + 50) if (wrong := faults(seed))}
    assert found == {}


def faults_in_phases(seed):
    problem = in_phases(instance(seed), seed)
    judge = Judge(problem)
    mixed = any(len({judge.phase([tensor]) for tensor in atom}) > 1 for atom in judge.atoms)
    return None if mixed else faults_of(problem)  # what is tied over phases counts in all of them


@pytest.mark.parametrize("first", range(0, QUICK // 4, 25))
def test_what_is_in_use_one_after_another_is_placed_as_counting_through_does(first):
    found = {seed: wrong for seed in range(first, first + 25) if (wrong := faults_in_phases(seed))}
    assert found == {}


@pytest.mark.slow
@pytest.mark.parametrize("first", range(QUICK // 4, 1000, 50))
def test_a_thousand_of_them(first):
    found = {seed: wrong for seed in range(first, first + 50) if (wrong := faults_in_phases(seed))}
    assert found == {}


@pytest.mark.slow
@pytest.mark.parametrize("first", range(QUICK, 10_000, 100))
def test_ten_thousand_small_problems_are_solved_as_counting_through_does(first):
    found = {seed: wrong for seed in range(first, first + 100) if (wrong := faults(seed))}
    assert found == {}

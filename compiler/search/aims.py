"""Objectives as integer programs: what they could reach if the order of the layers did not matter."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Final

from ...ir import Workload
from .clock import Clock
from .costs import Costs, atom_seconds
from .formulate import Builder, groups_of
from .highs import NODE_LIMIT
from .outoforder import Counts, overruns
from .problem import UNLIMITED, Problem
from .timing import counted_calls

GAP: Final = 1e-4
"""Relative distance from the bound at which the solver may stop."""
TIME_GAP: Final = 5e-3
"""The same for predicted seconds, which are not known to a hundredth."""
TIME_NODES: Final = 200


@dataclass(frozen=True, slots=True)
class Aimed:
    """Counts that are best for an objective, and the value no placement can beat."""

    counts: Counts | None
    bound: float


def best_counts(
    problem: Problem, objective: str, work: Workload, policy: str, clock: Clock, below: float = inf
) -> Aimed | None:
    """Return the best counts in any order; None if there are none, or no time to look for them.

    Where none has a value ``below`` a limit there are no counts, and the limit is the bound; where none
    was found in so many steps there are none either, and the bound is what was proved by then.
    """
    groups = groups_of(problem)
    builder = Builder(problem, groups, policy)
    timed = objective == "latency"
    if timed:
        builder.order_equal_devices()
    scale = _aim(builder, objective, work)
    if below < inf:
        costs = [(column, cost) for column, cost in enumerate(builder.program.costs) if cost]
        builder.program.at_most(below / scale, costs)
    limits = (TIME_GAP, TIME_NODES) if timed else (GAP, NODE_LIMIT)
    answer = clock.solve(builder.program, gap=limits[0], nodes=limits[1])
    if answer.status == "infeasible" and below < inf:
        return Aimed(None, below)
    if answer.status in {"infeasible", "clock"}:
        return None
    table = builder.table(answer.values) if answer.values else ()
    if not answer.values or any(overruns(problem, groups, table)):
        return Aimed(None, answer.bound * scale)
    return Aimed(Counts(groups, table, 0, answer.status == "optimal"), answer.bound * scale)


def _aim(builder: Builder, objective: str, work: Workload) -> float:
    """Add the objective to a program; returns what its value is to be multiplied with."""
    match objective:
        case "balance":
            return _least_share(builder)
        case "headroom":
            return _most_headroom(builder)
        case "throughput":
            return _least_busy(builder, work)
        case "latency":
            return _least_time(builder, work)
        case _:
            return _fewest_devices(builder)


def _least_share(builder: Builder) -> float:
    """Minimise the fullest accelerator, as a share of its room."""
    level = builder.program.column(cost=1.0, upper=inf, integer=False)
    for device in builder.problem.accelerators:
        room = builder.problem.rooms[device]
        if room < UNLIMITED:  # of what is unlimited nothing is a share
            builder.program.at_most(0.0, [*builder.loads[device], (level, -builder.amount(room))])
    return 1.0


def _most_headroom(builder: Builder) -> float:
    """Maximise the bytes that are free on the accelerator with the fewest."""
    level = builder.program.column(cost=-1.0, upper=inf, integer=False)
    for device in builder.problem.accelerators:
        room = builder.problem.rooms[device]
        if room < UNLIMITED:
            builder.program.at_most(builder.amount(room), [*builder.loads[device], (level, 1.0)])
    return builder.unit


def _least_busy(builder: Builder, work: Workload) -> float:
    """Minimise the time of the busiest device."""
    times, scale = _times(builder, work)
    level = builder.program.column(cost=1.0, upper=inf, integer=False)
    for device in range(len(builder.problem.devices)):
        here = [(column, time) for (run, column), time in times.items() if run == device]
        if here:
            builder.program.at_most(0.0, [*here, (level, -1.0)])
    return scale


def _least_time(builder: Builder, work: Workload) -> float:
    """Minimise the seconds of all calls; changes of device are not priced here.

    A call takes the longer of what waits for each other and of what one link brings.
    """
    costs = Costs(builder.problem)
    calls = [_terms(builder, costs, tokens) for tokens, times in counted_calls(work) if times and tokens]
    scale = max((value for rows in calls for row in rows.values() for _, value in row), default=0.0) or 1.0
    times = [times for tokens, times in counted_calls(work) if times and tokens]
    for rows, count in zip(calls, times, strict=True):
        level = builder.program.column(cost=float(count), upper=inf, integer=False)
        for row in rows.values():
            builder.program.at_most(0.0, [*((c, value / scale) for c, value in row), (level, -1.0)])
    return scale


def _terms(builder: Builder, costs: Costs, tokens: int) -> dict[tuple[str, int], list[tuple[int, float]]]:
    """Return the rows of one call: what waits, and by link and disk what travels; terms are seconds."""
    rows: dict[tuple[str, int], list[tuple[int, float]]] = {}
    for group, columns in zip(builder.groups, builder.columns, strict=True):
        for place, column in columns.items():
            cost = costs.of(group.atom, place, tokens)
            link, disk = ("link", place.run), ("disk", place.store)
            for key, value in ((("busy", 0), cost.busy), (link, cost.link), (disk, cost.disk)):
                if value:
                    rows.setdefault(key, []).append((column, value))
    return rows


def _times(builder: Builder, work: Workload) -> tuple[dict[tuple[int, int], float], float]:
    """Return the time of one member by (running device, column), relative to the scale."""
    costs = Costs(builder.problem)
    found = {
        (place.run, column): atom_seconds(costs, group.atom, place, work)
        for group, columns in zip(builder.groups, builder.columns, strict=True)
        for place, column in columns.items()
    }
    scale = max(found.values(), default=0.0) or 1.0
    return {key: time / scale for key, time in found.items()}, scale


def _fewest_devices(builder: Builder) -> float:
    """Minimise how many devices run anything; those with pins do already."""
    busy = {place.run for place in builder.problem.fixed.values()}
    for device in range(len(builder.problem.devices)):
        here = [c for columns in builder.columns for place, c in columns.items() if device in place]
        if not here:
            continue
        used = builder.program.column(cost=1.0)
        count = float(sum(len(group.members) for group in builder.groups))
        builder.program.at_most(0.0, [*((column, 1.0) for column in here), (used, -count)])
        if device in busy:
            builder.program.equal(1.0, [(used, 1.0)])
    return 1.0

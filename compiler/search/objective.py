"""Objectives: what a placement is worth; the seconds are those of the cost model (`costs`)."""

from __future__ import annotations

from collections.abc import Sequence

from ...ir import Workload
from .costs import Costs, atom_seconds, predict
from .pipelining import busy_seconds, least_busy
from .problem import Place, Problem, usage


def latency(problem: Problem, places: Sequence[Place], work: Workload) -> float:
    """Return the predicted seconds of one workload: one device works at a time."""
    return predict(problem, places, work).seconds


def throughput(problem: Problem, places: Sequence[Place], work: Workload) -> float:
    """Return the seconds of the busiest device: the time per workload of a full pipeline."""
    return max(busy_seconds(problem, places, work), default=0.0)


def value_of(objective: str, problem: Problem, places: list[Place], work: Workload) -> float:
    """Return what an objective makes of a placement; less is better."""
    used, mains = usage(problem, places), problem.accelerators
    match objective:
        case "balance":
            return max((used[d] / max(problem.rooms[d], 1) for d in mains), default=0.0)
        case "headroom":
            return -float(min((problem.rooms[d] - used[d] for d in mains), default=0))
        case "latency":
            return latency(problem, places, work)
        case "throughput":
            return throughput(problem, places, work)
        case _:
            return float(len({place.run for place in (*places, *problem.fixed.values())}))


def bound_of(objective: str, problem: Problem, work: Workload) -> float:
    """Return a value no placement without spill can beat."""
    mains = problem.accelerators
    rooms = sorted((problem.rooms[d] for d in mains), reverse=True)
    largest = max((atom.cost for atom in problem.atoms), default=0)
    if not mains or not problem.atoms:
        return 0.0
    match objective:
        case "balance":
            return max(problem.total / max(sum(rooms), 1), largest / max(rooms[0], 1))
        case "headroom":
            return -float(min((sum(rooms) - problem.total) / len(rooms), rooms[-1]))
        case "latency":
            return sum(map(min, _times(problem, work)))
        case "throughput":
            return least_busy(problem, work)
        case _:
            return float(fewest_possible(problem, rooms))


def _times(problem: Problem, work: Workload) -> list[list[float]]:
    """Return the seconds of every atom on every accelerator."""
    mains, costs = [Place(d, d) for d in problem.accelerators], Costs(problem)
    return [[atom_seconds(costs, atom, place, work) for place in mains] for atom in problem.atoms]


def fewest_possible(problem: Problem, rooms: list[int]) -> int:
    """Return how many of the largest devices hold as many bytes as there are."""
    fixed = {place.run for place in problem.fixed.values()}
    left, count = problem.total, 0
    for room in rooms:
        if left <= 0:
            break
        left, count = left - room, count + 1
    return max(count, len(fixed), 1)

"""What people do by hand: the first layers on the accelerators in order, the rest computed or streamed.

There are never many changes of device, which the integer programs know nothing of.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from ...ir import Workload
from .arrange import spread_out
from .costs import Costs
from .problem import Loads, Place, Problem, is_legal
from .readfirst import outside_of, saved_on


def first_in_order(problem: Problem, work: Workload) -> Iterator[tuple[str, list[Place]]]:
    """Yield what the rest does, with the placement; none if that is not legal.

    What gains nothing on an accelerator is met in its order as all else is, or stays on the host.
    """
    cpu, mains = problem.cpu, problem.accelerators
    if cpu is None or cpu in mains:
        return
    costs, outside = Costs(problem), outside_of(problem)
    free = [index for index, place in enumerate(outside) if place.run == cpu]
    gaining = [i for i in free if saved_on(costs, problem.atoms[i], cpu, mains[0], work)]
    for some in (free, gaining)[: 1 if len(gaining) == len(free) else 2]:
        loads, at = Loads(problem, outside), 0
        for index in some:
            while at < len(mains) and not loads.move(index, Place(mains[at], mains[at])):
                at += 1
        if is_legal(problem, loads.places):
            yield "compute", loads.places
        if at == len(mains) and (places := _streamed(loads, some)) is not None:
            yield "stream", spread_out(problem, places)


def _streamed(loads: Loads, free: list[int]) -> list[Place] | None:
    """Return as many on accelerators as leave room for the rest to travel to where the last of them is."""
    problem, mains = loads.problem, loads.problem.accelerators
    held, host = [index for index in free if loads.places[index].run in mains], loads.places[free[-1]].store

    def travelling(kept: int) -> list[Place]:
        places, there = list(loads.places), loads.places[held[kept - 1]].run if kept else mains[0]
        for index in free[kept:]:
            places[index] = Place(host, there)
        return places

    runs = [loads.places[index].run for index in held]
    for card in reversed(mains):  # on one card, the fewer are held, the more room is for the rest
        counts = [kept for kept in range(len(held), 0, -1) if runs[kept - 1] == card]
        at = bisect_left(counts, 1, key=lambda kept: is_legal(problem, travelling(kept)))
        if at < len(counts):
            return travelling(counts[at])
    return places if is_legal(problem, places := travelling(0)) else None

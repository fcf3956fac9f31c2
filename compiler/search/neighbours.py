"""What is light moves to the accelerator its neighbours are on.

Counts of equal atoms leave norms and routers on any card with room: seconds hardly tell these apart, but each
that is elsewhere than what comes before and after it is two changes of device, and a plan nobody would write.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from .problem import Loads, Place, Problem, count_hops

_LIGHT: Final = 0.01
"""Of all bytes: what is heavier is where it is for the room it takes."""
_ROUNDS: Final = 2
"""One that moved may be the neighbour another goes to."""


def with_neighbours(problem: Problem, places: list[Place]) -> list[Place]:
    """Return a legal placement with light resident atoms moved where that leaves fewer changes of device."""
    loads, hops = Loads(problem, places), count_hops(problem, places)
    atom_of = {grain: index for index, atom in enumerate(problem.atoms) for grain in atom.grains}
    order = sorted(atom_of)
    beside = {grain: (*order[:at][-1:], *order[at + 1 : at + 2]) for at, grain in enumerate(order)}
    light = [i for i, atom in enumerate(problem.atoms) if atom.weight <= _LIGHT * problem.total]
    light.sort(key=lambda i: problem.atoms[i].weight)
    for index in light * _ROUNDS:
        place = loads.places[index]
        around = {atom_of[other] for grain in problem.atoms[index].grains for other in beside[grain]}
        for device in _elsewhere(problem, place, {loads.places[i].run for i in around}):
            if not loads.move(index, Place(device, device)):
                continue
            if (fewer := count_hops(problem, loads.places)) < hops:
                hops = fewer
                break
            loads.move(index, place)
    return loads.places


def _elsewhere(problem: Problem, place: Place, runs: set[int]) -> Iterator[int]:
    """Yield the accelerators of some devices that a resident of another may go to."""
    if place.run in problem.accelerators and not place.streamed:
        yield from sorted(d for d in runs if d != place.run and d in problem.accelerators)

"""What comes before and after a part is on the same device, where nothing speaks against it.

Counts of equal atoms leave norms and routers on any card with room, and parts of one layer on two cards:
seconds hardly tell these apart, but each is two changes of device, and a plan nobody would write.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import chain, combinations, pairwise
from typing import Final

from .problem import Loads, Place, Problem, way_through

_LIGHT: Final = 0.01
"""Of all bytes: what is heavier is where it is for the room it takes."""
_ROUNDS: Final = 2
"""One that moved may be the neighbour another goes to."""


def with_neighbours(problem: Problem, places: list[Place]) -> list[Place]:
    """Return a legal placement with fewer changes of device.

    Equal atoms take each other's places, and light residents move, where neighbours are on the other device.
    """
    way = _Way(problem, places)
    _exchange(problem, way)
    loads = Loads(problem, way.places)
    most = _LIGHT * problem.total
    light = [i for i, atom in enumerate(problem.atoms) if atom.weight <= most]
    for index in sorted(light, key=lambda i: problem.atoms[i].weight) * _ROUNDS:
        place = loads.places[index]
        if place.streamed or place.run not in problem.accelerators:
            continue
        apart = {device: way.apart(index, device) for device in problem.accelerators}
        for device in sorted(apart, key=lambda d: (apart[d], d)):
            if apart[device] >= apart[place.run]:
                break
            if loads.move(index, Place(device, device)):
                way.put(index, loads.places[index])
                break
    return loads.places


class _Way:
    """A call's way through a placement: from part to part, to visited ones and back."""

    def __init__(self, problem: Problem, places: list[Place]) -> None:
        self.places, self._atoms = list(places), problem.atoms
        self._runs = {grain: place.run for grain, place in problem.fixed.items()}
        atom_of = {grain: index for index, atom in enumerate(problem.atoms) for grain in atom.grains}
        self._beside: list[list[int]] = [[] for _ in problem.atoms]
        for first, second in pairwise(way_through(problem, {*self._runs, *atom_of})):
            for grain, other in ((first, second), (second, first)):
                if grain in atom_of and atom_of.get(other) != atom_of[grain]:
                    self._beside[atom_of[grain]].append(other)
        for index, place in enumerate(places):
            self.put(index, place)

    def put(self, index: int, place: Place) -> None:
        """Put an atom elsewhere."""
        self.places[index] = place
        self._runs |= dict.fromkeys(self._atoms[index].grains, place.run)

    def apart(self, index: int, device: int) -> int:
        """Return how often the way changes device before and after an atom, if that were on a device."""
        return sum(self._runs[other] != device for other in self._beside[index])


def _exchange(problem: Problem, way: _Way) -> None:
    """Let equal atoms take each other's places where that hops less."""
    places, alike = way.places, defaultdict[object, list[int]](list)
    for index, atom in enumerate(problem.atoms):
        if way.apart(index, places[index].run):
            alike[atom.kind].append(index)
    for first, second in chain.from_iterable(combinations(each, 2) for each in alike.values()):
        here, there = places[first], places[second]
        if here.run == there.run:
            continue
        before = way.apart(first, here.run) + way.apart(second, there.run)
        way.put(first, there)
        way.put(second, here)
        if way.apart(first, there.run) + way.apart(second, here.run) >= before:
            way.put(first, here)
            way.put(second, there)

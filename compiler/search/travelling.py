"""What is streamed on its way: whether it is there when a call comes to it.

A link has room for one unit: it sets out when the one before it was used, and the first of a call when
the last of the call before was. What computes meanwhile hides it, so it matters what lies between. What
a processor uses from disk needs no room but its pages: the next is read while the one before is used.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import NamedTuple, TypeAlias

from .problem import Problem

Ways: TypeAlias = tuple[tuple[Hashable, float], ...]
"""Links and disks that something comes over, and the seconds on each of them, which go by at once."""


class Step(NamedTuple):
    """What a call does next."""

    busy: float
    """Seconds in which nothing else computes."""
    ways: Ways = ()
    buffered: bool = True
    """Whether it has a buffer until it was used; what is used in the pages it is read to has none."""

    def joined(self, other: Step) -> Step:
        """Return both as one, of the same ways."""
        both = zip(self.ways, other.ways, strict=True)
        ways = tuple((way, here + there) for (way, here), (_, there) in both)
        return self._replace(busy=self.busy + other.busy, ways=ways)


class Course:
    """How far a call is, and since when its links and disks have nothing to bring."""

    def __init__(self) -> None:
        self.now = 0.0
        self._used: dict[Hashable, float] = {}

    def ready(self, ways: Ways) -> float:
        """Return when what comes over some ways is there."""
        if not ways:
            return self.now
        sets_out = max([self._used.get(way, 0.0) for way, _ in ways])
        return max(self.now, sets_out + max([seconds for _, seconds in ways]))

    def take(self, step: Step) -> None:
        """Do a step."""
        if not step.ways:
            self.now += step.busy
            return
        begun = self.ready(step.ways)
        self.now = begun + step.busy
        for way, _ in step.ways:
            self._used[way] = self.now if step.buffered else begun


def layers_of(problem: Problem) -> tuple[tuple[int, ...], ...]:
    """Return the atoms of each layer by index, in the order of a call; the pinned ones behind the free ones.

    What is streamed of a layer is one unit, and travels as one. What belongs to no layer is one by itself.
    """
    atoms = [*problem.atoms, *(atom for atom, _ in problem.pinned)]
    found: dict[tuple[int, int], list[int]] = {}
    for index in sorted(range(len(atoms)), key=lambda each: atoms[each].grains):
        layer = problem.layers[atoms[index].grains[0]] if problem.layers else -1
        found.setdefault((layer, index if layer < 0 else -1), []).append(index)
    return tuple(map(tuple, found.values()))


def seconds_of(steps: Iterable[Step], rest: float = 0.0) -> float:
    """Return the seconds of a call that follows one like it, ``rest`` of them spent on what is no step."""
    course, begun, steps = Course(), 0.0, list(steps)
    for _ in range(2):
        begun = course.now
        for step in steps:
            course.take(step)
        course.now += rest
    return course.now - begun

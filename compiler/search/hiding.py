"""Which of the equal layers travel: those that others compute before for long enough.

Counts say how many of a kind are streamed, and how many are computed where. In the order of devices they
lie in clusters, and behind a cluster of transfers there is nothing to hide; a change of device more
costs microseconds, a transfer milliseconds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TypeAlias

from .costs import Costs
from .problem import Place
from .travelling import Course, Step

_Places: TypeAlias = tuple[Place, ...]


def hidden(costs: Costs, places: Sequence[Place], tokens: int, patience: float) -> list[Place]:
    """Return the placement with the places of equal layers exchanged, for calls of so many tokens.

    In the order of a call each gets those places of its kind to which the weights have travelled by then,
    or will have in a share of the next that needs no travelling; else that.
    """
    found, course = costs.everywhere(places), Course()
    known, left = dict[tuple[object, _Places], list[Step]](), defaultdict[object, list[_Places]](list)
    for layer in costs.layers:
        left[costs.kind_of(layer)].append(tuple([found[index] for index in layer]))
    for layer in costs.layers:
        kind = costs.kind_of(layer)
        for at in set(left[kind]):
            if (kind, at) not in known:
                known[kind, at] = costs.steps(layer, at, tokens)
        at = _next(course, {at: known[kind, at] for at in dict.fromkeys(left[kind])}, patience)
        left[kind].remove(at)
        for step in known[kind, at]:
            course.take(step)
        for index, place in zip(layer, at, strict=True):
            found[index] = place
    return found[: len(places)]


def _next(course: Course, ways: dict[_Places, list[Step]], patience: float) -> _Places:
    """Return the places whose weights are there first, if that is soon or all others travel too."""
    ready = {at: max(course.ready(step.ways) for step in steps) for at, steps in ways.items()}
    resting = [at for at, steps in ways.items() if not any(step.ways for step in steps)]
    soonest = min((at for at in ways if at not in resting), key=ready.__getitem__, default=None)
    if soonest is None:
        return resting[0]
    busy = sum(step.busy for at in resting[:1] for step in ways[at])
    return resting[0] if resting and ready[soonest] > course.now + patience * busy else soonest

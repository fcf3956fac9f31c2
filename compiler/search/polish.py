"""A placement in which what travels is waited for, made quicker by other orders of the same places.

Programs count what is where and know nothing of the order: where no two parts are equal, `hiding` has
nothing to exchange.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Final

from ...ir import Workload
from .costs import Costs, timing_of
from .problem import Place, is_legal

_ALL: Final = 1000
"""Placements of which each is tried: five or six parts."""
_MANY: Final = 32
"""Parts from which on none is tried: so many are equal, or small beside the whole."""


def polished(costs: Costs, places: Sequence[Place], work: Workload) -> list[Place]:
    """Return the quickest legal placement of a few parts at the places that are used.

    Of more, one that no change of a streamed part, and no exchange of it with another, makes quicker.
    """
    used, best = list(dict.fromkeys(places)), list(places)
    if len(best) > _MANY:
        return best

    def priced(tried: list[Place]) -> float:
        return timing_of(costs, tried, work).priced

    if len(used) ** len(best) <= _ALL:
        every = (list(each) for each in product(used, repeat=len(best)))
        return min((each for each in every if is_legal(costs.problem, each)), key=priced, default=best)
    found: list[Place] | None = best
    while found is not None:
        best, limit = found, priced(found)
        legal = (each for each in _changes(best, used) if is_legal(costs.problem, each))
        found = next((each for each in legal if priced(each) < limit), None)
    return best


def _changes(places: Sequence[Place], used: Sequence[Place]) -> Iterator[list[Place]]:
    """Yield the placement with one streamed part elsewhere, or with its place exchanged for another's."""
    for index in (index for index, place in enumerate(places) if place.streamed):
        for other in sorted(range(len(places)), key=lambda each: abs(each - index)):
            if places[other] != places[index]:
                tried = list(places)
                tried[index], tried[other] = places[other], places[index]
                yield tried
        for place in used:
            if place != places[index]:
                yield [*places[:index], place, *places[index + 1 :]]

"""The seconds in which devices are asked for operations: told with a plan, never decided by.

Python asks for one after the other, at nearly the same price wherever parts are. A card is asked while it
still does what it was asked for before, and waits only where asking takes longer than doing; a processor does
what it asks itself for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from ...ir import is_accelerator
from .atoms import PlanProblem
from .problem import Place
from .speeds import speeds
from .timing import Waits

LAUNCHING: Final = "launching"
"""What a call is said to be limited by if it is this."""
ROWS: Final = 35
"""Operations whose asking takes as long as what Python does for a module that is lent some rows."""


class Asking(NamedTuple):
    """Seconds of asking for the operations of one call, by who does them."""

    cards: float = 0.0
    hosts: float = 0.0
    operations: float = 0.0
    """How many of them cards are asked for."""


def asking(model: PlanProblem, places: Sequence[Place], tokens: int) -> Asking:
    """Return how long a call of so many tokens asks for operations under a placement of the free atoms."""
    if not model.launches or not tokens:
        return Asking()
    problem, seconds, counts = model.problem, {True: 0.0, False: 0.0}, {True: 0.0, False: 0.0}
    mains = [is_accelerator(device.name) for device in problem.devices]
    rates = [speeds(device).launch for device in problem.devices]
    for atom, place in (*zip(problem.atoms, places, strict=True), *problem.pinned):
        main, count = mains[place.run], sum([model.launches[grain].of(tokens) for grain in atom.grains])
        count += ROWS * (atom.rows and place.streamed)
        seconds[main] += count * rates[place.run]
        counts[main] += count
    return Asking(seconds[True], seconds[False], counts[True])


def with_asking(model: PlanProblem, places: Sequence[Place], call: Waits, tokens: int) -> Waits:
    """Return the seconds of a call of so many tokens with those in which nothing is done but asking."""
    asked = asking(model, places, tokens)
    mains = {device.name for device in model.problem.devices if is_accelerator(device.name)}
    done = {what: seconds for what, seconds in call.parts if what.partition(" of ")[2] in mains}
    work = sum(done.values())
    last = work / max(asked.operations, 1.0)  # it is still to be done when nothing more is asked for
    hidden = done if asked.cards + last > work else dict[str, float]()
    told = asked.hosts + (asked.cards + last if hidden else 0.0)
    if not told:
        return call
    parts = tuple((what, seconds) for what, seconds in call.parts if what not in hidden)
    return replace(call, parts=(*parts, (LAUNCHING, told)), waits=call.waits + told - sum(hidden.values()))

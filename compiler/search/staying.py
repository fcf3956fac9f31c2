"""What is brought to a device stays there where that has room.

Costs that do not tell two places apart may leave a piece away that fits, such as a table of which a call
reads a few rows.
"""

from __future__ import annotations

from ...ir import is_accelerator
from .problem import Loads, Place, Problem


def with_room_used(problem: Problem, places: list[Place]) -> list[Place]:
    """Return a legal placement with as much of what is streamed to accelerators staying there as fits.

    The largest come first. Where what is free holds the rows used last, it goes on doing so.
    """
    loads, caches = Loads(problem, places), problem.caches or (0,) * len(problem.devices)
    brought = [
        (atom.weight, index, place.run)
        for index, (atom, place) in enumerate(zip(problem.atoms, places, strict=True))
        if atom.weight and place.streamed and not caches[place.run]
        and is_accelerator(problem.devices[place.run].name)
    ]  # fmt: skip
    for _, index, run in sorted(brought, key=lambda each: (-each[0], each[1])):
        loads.move(index, Place(run, run))
    return loads.places

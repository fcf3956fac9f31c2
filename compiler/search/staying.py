"""What is brought to a device stays there where that has room.

Costs that do not tell two places apart may leave a piece away that fits, such as a table of which a call
reads a few rows; so may bounds above what the ledger of a placement counts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ...ir import Plan, is_accelerator, verify
from ...ir.rules.laws import BUDGET_EXCEEDED
from ..placing.ledger import Books, keep_books
from .emit import units_of
from .found import Found
from .problem import Loads, Place, Problem, usage
from .rowwise import kept_for_rows

_ROUNDS: Final = 4
"""How often what stays may leave room for more: the buffer for what is brought shrinks."""


def staying(plan: Plan, found: Found) -> Found:
    """Return a placement that uses the room its accelerators have left, by its ledger."""
    if not any(place.streamed for place in found.places):
        return found
    _, books = _counted(plan, found)
    for _ in range(_ROUNDS):
        more = _with_more(plan, found, books)
        tried, books = _counted(plan, more)
        broken = verify(replace(tried, ledger=books.ledger))
        if more.places == found.places or books.short or any(b.rule is BUDGET_EXCEEDED for b in broken):
            break
        found = more
    return found


def _with_more(plan: Plan, found: Found, books: Books) -> Found:
    problem, places = found.model.problem, found.places
    rows = zip(plan.devices, books.ledger, usage(problem, places), problem.rooms, strict=True)
    rooms = tuple(
        room if device.memory is None else used + max(0, device.memory - account.total)
        for device, account, used, room in rows
    )
    return replace(found, places=with_room_used(replace(problem, rooms=rooms), places))


def _counted(plan: Plan, found: Found) -> tuple[Plan, Books]:
    caches = (*plan.caches, *kept_for_rows(found.model, found.places, plan.caches))
    tried = replace(plan, units=units_of(plan, found.model, found.places), caches=caches)
    return tried, keep_books(tried, found.model.tree)


def with_room_used(problem: Problem, places: list[Place]) -> list[Place]:
    """Return a legal placement with as much of what is streamed to accelerators staying there as fits.

    The largest come first. What travels by rows stays away where a cache holds those used last.
    """
    loads, caches = Loads(problem, places), problem.caches or (0,) * len(problem.devices)
    brought = [
        (atom.weight, index, place.run)
        for index, (atom, place) in enumerate(zip(problem.atoms, places, strict=True))
        if atom.weight and place.streamed and not (atom.rows and caches[place.run])
        and is_accelerator(problem.devices[place.run].name)
    ]  # fmt: skip
    for _, index, run in sorted(brought, key=lambda each: (-each[0], each[1])):
        loads.move(index, Place(run, run))
    return loads.places

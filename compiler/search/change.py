"""Why something must spill, in numbers, and the smallest budget change that would avoid it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ...ir import is_accelerator, size_up
from . import few_kinds, inorder
from .clock import Clock
from .outoforder import least_extra
from .problem import Problem

MAX_TRIED = 4
_NODES: Final = 100
"""What needs more is told as the order needs it: this is advice beside a plan that is made."""


@dataclass(frozen=True, slots=True)
class Change:
    """Bytes more on one device with which everything fits on the accelerators."""

    device: int
    nbytes: int


def smallest_change(problem: Problem, clock: Clock) -> Change | None:
    """Return the least increase of one accelerator's budget that avoids every spill, if one does."""
    mains = problem.accelerators
    if not mains or not is_accelerator(problem.devices[mains[0]].name) or not inorder.is_packable(problem):
        return None
    line, best = inorder.line_of(problem), None
    for device in _representatives(problem):
        best = _in_order(problem, line, device, best) or best
    if best is None:
        return None
    least = problem.total - sum(inorder.room_in_order(problem, d) for d in mains)
    if best.nbytes <= max(least, 0):
        return best
    extra = few_kinds.least_extra_of_few(problem, best.device)
    if extra is None and best.nbytes <= max(least, 0) + problem.total // 1000:
        return best  # a thousandth is not worth opening the solver
    if extra is None:
        extra = least_extra(problem, "none", best.device, clock, gap=1e-3, nodes=_NODES)
    return best if extra is None or extra >= best.nbytes or extra <= 0 else Change(best.device, extra)


def _representatives(problem: Problem) -> list[int]:
    """One device of each size: the first few, the largest first."""
    by_room: dict[int, int] = {}
    for device in problem.accelerators:
        by_room.setdefault(problem.rooms[device], device)
    return [by_room[room] for room in sorted(by_room, reverse=True)][:MAX_TRIED]


def _in_order(
    problem: Problem, line: inorder.OrderedAtoms, device: int, best: Change | None
) -> Change | None:
    """Return the least increase of a device with which all fits in order; None if another's is no larger."""
    rooms = [inorder.room_in_order(problem, d) for d in range(len(problem.devices))]

    def fits(extra: int) -> bool:
        larger = [room + extra if d == device else room for d, room in enumerate(rooms)]
        return next(inorder.packings(problem, line, larger), None) is not None

    peak = max((atom.peak for atom in problem.atoms), default=0)
    high = problem.total + peak if best is None else best.nbytes - (best.device < device)
    others = sum(max(0, rooms[d]) for d in problem.accelerators if d != device)
    low = max(0, problem.total - others - rooms[device] - 1)
    if high <= low or not fits(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return Change(device, high)


def describe_change(problem: Problem, change: Change) -> str:
    """Say the change so that it can be typed: rounded up, hence enough."""
    return f"+{size_up(change.nbytes)} on {named_with_pool(problem, change.device)}"


def named_with_pool(problem: Problem, device: int) -> str:
    """Return a device's name, with the memory it shares with others: more of one alone is no more."""
    here = problem.devices[device]
    pooled = any(device in pool.members for pool in problem.pools)
    return f"{here.name} and its pool `{here.pool}`" if pooled else here.name

"""Leaving the order of the layers where an objective gains enough by it to pay for the hops."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ...ir import human_size
from .aims import best_counts
from .arrange import arrange
from .found import Found, Wish, spilled_bytes
from .objective import value_of
from .pipelining import shared_out
from .problem import Problem, count_hops, is_legal

PAYS: Final = 0.05
"""An objective must gain this share to leave the order of the layers."""
SPACIOUS: Final = 0.01
"""Headroom must gain this share of the largest accelerator."""
_MEANING: Final = {
    "balance": "fullest device",
    "latency": "predicted time",
    "throughput": "time of the busiest device",
}


def leave_order(found: Found, wish: Wish) -> Found:
    """Return a better placement in any order, if it is better by enough, and what was proved."""
    problem = found.model.problem
    if found.objective == "fill" or not _pays(found, found.bound, problem):
        return found
    aimed = best_counts(problem, found.objective, wish.work, "none", wish.clock)
    tried = list(shared_out(problem, wish.work, wish.clock)) if found.objective == "throughput" else []
    bound = found.bound
    if aimed is not None and aimed.counts is not None:
        tried.append(arrange(problem, aimed.counts, by_run=False))
        bound = max(bound, min(aimed.bound, found.value))
    found = replace(found, bound=bound, status="optimal" if found.value <= bound else found.status)
    legal = (places for places in tried if is_legal(problem, places) and not spilled_bytes(problem, places))
    valued = [(value_of(found.objective, problem, places, wish.work), places) for places in legal]
    value, places = min(valued, key=lambda each: each[0], default=(found.value, found.places))
    if not _pays(found, value, problem):
        return found
    note = _note(found, value, count_hops(problem, found.places), count_hops(problem, places))
    status = "optimal" if value <= bound + abs(bound) * 1e-3 else "unproven"
    return replace(found, places=places, value=value, status=status, notes=(*found.notes, note))


def _pays(found: Found, value: float, problem: Problem) -> bool:
    """Say whether a value is enough better than what keeps the order has."""
    gain = found.value - value
    match found.objective:
        case "fewest-devices":
            return gain >= 1
        case "headroom":
            return gain > SPACIOUS * max(problem.rooms[d] for d in problem.accelerators)
        case _:
            return gain > PAYS * abs(found.value)


def _note(found: Found, value: float, before: int, after: int) -> str:
    match found.objective:
        case "headroom":
            gain = f"{human_size(int(found.value - value))} more are free"
        case "fewest-devices":
            gain = f"{value:.0f} devices instead of {found.value:.0f}"
        case _:
            gain = f"{_MEANING[found.objective]} {1 - value / found.value:.0%} less"
    return f"leaves the order of the layers: {gain}, {after} changes of device instead of {before}"

"""Running the passes: first as if all of a model ran on one device, where a trace says what is alive there.

What is known of one device is to the byte; what any split may need is a bound above it. A plan that runs
everything on one device is to have the whole of it, so that is tried first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from ...ir import Diagnostics, Plan, is_accelerator
from ..passes.pipeline import Pass, run_passes
from ..placing.in_force import for_one_device, no_less, one_runner, with_bounds
from .workload import nbytes_of

After: TypeAlias = Callable[[Pass, Plan], None]


def run_all(plan: Plan, passes: Iterable[Pass], diagnostics: Diagnostics, after: After | None) -> Plan:
    """Return what the passes make of a plan, counting on what each piece may need apart."""
    return run_passes(plan, passes, diagnostics, *(() if after is None else (after,)))


def run_on_one(plan: Plan, passes: Iterable[Pass], diagnostics: Diagnostics, after: After | None) -> Plan:
    """Return what the passes make of a plan, counting on one device where they leave everything on one.

    Findings go to ``diagnostics``; ``after`` sees the passes that made the plan.
    """
    steps = tuple(passes)

    def tried(start: Plan) -> tuple[Plan, Diagnostics, list[tuple[Pass, Plan]]]:
        told, seen = Diagnostics(diagnostics), list[tuple[Pass, Plan]]()
        return run_passes(start, steps, told, lambda step, so_far: seen.append((step, so_far))), told, seen

    alone = for_one_device(plan) if _may_be_one(plan) else None
    made, told, seen = tried(plan if alone is None else alone)
    if alone is not None and not told.errors and _is_best_place(one_runner(made), plan):
        made = with_bounds(made, plan)
    else:
        if alone is not None:
            made, told, seen = tried(plan)
        if told.errors and one_runner(made) is not None and (raised := no_less(plan)) is not None:
            made, told, seen = tried(raised)
    diagnostics.extend(told)
    if after is not None:
        for step, so_far in seen:
            after(step, so_far)
    return made


def _is_best_place(device: str | None, plan: Plan) -> bool:
    """Say whether the one device that runs it all is the first that is filled: none stays empty."""
    cards = [each.name for each in plan.devices if is_accelerator(each.name)]
    return device is not None and device in (cards[:1] or [device])


def _may_be_one(plan: Plan) -> bool:
    """Say whether one device may run it all: of several cards the first, where it holds all weights."""
    cards = [device.memory for device in plan.devices if is_accelerator(device.name)]
    if len(cards) < 2 or plan.tree is None or "dtype" in dict(plan.options):
        return True
    return cards[0] is None or nbytes_of(plan.tree) <= cards[0]

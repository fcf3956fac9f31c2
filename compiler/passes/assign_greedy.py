"""Place units in order: each goes to the first device with room, and no device is returned to.

What is tied goes together, what has a place keeps it, and what fits nowhere stays without one. Where a
unit does not fit, it is opened and its parts are tried. Nothing is kept free for streaming unless
something is streamed: then everything is placed again, beside the room that takes.

Before:
    plan 1
    model "m"
    device cuda:0 memory 2KiB
    device cpu memory 8KiB
    unit a
    unit b
    module a : Linear 1KiB
    module b : Linear 1KiB

After:
    plan 1
    model "m"
    device cuda:0 memory 2KiB
    device cpu memory 8KiB
    place . on cuda:0 added
    module a : Linear 1KiB
    module b : Linear 1KiB
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...ir import Diagnostics, ModuleTree, Plan
from ..placing.attempts import Attempt, fixed_items, place_units, start, with_streaming
from ..placing.first_fit import FirstFitRules
from ..placing.frontier import Worklist, item_at, opened
from ..placing.visiting import around_visits
from .pipeline import Fact


@dataclass(frozen=True, slots=True)
class AssignGreedy:
    """First fit in order: the reference every other way is compared with."""

    name: ClassVar[str] = "assign-greedy"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.SIZED, Fact.TIED, Fact.OPENABLE})
    gives: ClassVar[frozenset[Fact]] = frozenset()

    def run(self, plan: Plan, diagnostics: Diagnostics) -> Plan:
        """Return the plan with a place for every unit that fits somewhere."""
        return around_visits(plan, lambda around: self._place(around, diagnostics))

    def _place(self, plan: Plan, diagnostics: Diagnostics) -> Plan:
        del diagnostics
        tree = plan.tree
        if tree is None or all(unit.store is not None for unit in plan.units):
            return plan
        return place_units(plan, tree, place_in_order(plan, tree))


def place_in_order(plan: Plan, tree: ModuleTree) -> Attempt:
    """Place by first fit, beside the room that streaming takes."""
    return with_streaming(plan, tree, lambda kept_free: first_fit(plan, tree, kept_free))[0]


def first_fit(plan: Plan, tree: ModuleTree, streaming: dict[int, int]) -> Attempt:
    """Place what waits in order, each unit on the first device with room beside what streaming needs."""
    fixed = fixed_items(plan, tree)
    rules = FirstFitRules(plan, tree, fixed, streaming)
    items = [item for unit in plan.units if (item := item_at(tree, unit.path)) is not None]
    work = Worklist(tree, [item for item in items or opened(tree, 0) if item not in fixed], rules.parts)
    greedy = start(rules, work, fixed, len(plan.devices))
    greedy.run()
    return Attempt(greedy.places, tuple(greedy.unplaced), greedy.minima)

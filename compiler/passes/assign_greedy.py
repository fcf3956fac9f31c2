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

from ...ir import Diagnostics, Plan
from ..placing.attempts import first_fit, place_units, with_streaming
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
        attempt, _ = with_streaming(plan, tree, lambda kept_free: first_fit(plan, tree, kept_free))
        return place_units(plan, tree, attempt)

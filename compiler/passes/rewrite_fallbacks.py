"""Repair what placing in order left behind: offloaded or unplaced parts go to any device with room.

What a person wrote is not moved, and nothing that is on an accelerator, so the repaired plan is never
worse than the one it is for.

Before:
    plan 1
    model "m"
    device cuda:0 memory 2KiB
    device cuda:1 memory 1KiB
    device cpu memory 8KiB
    module a : Linear 1KiB
    module b : Linear 2KiB
    module c : Linear 1KiB
    place a on cuda:0 added
    unit b
    unit c

After:
    plan 1
    model "m"
    device cuda:0 memory 2KiB
    device cuda:1 memory 1KiB
    device cpu memory 8KiB
    module a : Linear 1KiB
    module b : Linear 2KiB
    module c : Linear 1KiB
    place a on cuda:0 added
    place b on cpu run on cuda:0 added
    place c on cuda:1 added
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...ir import Diagnostics, Plan
from ..placing.repair import refill
from ..placing.visiting import around_visits
from .pipeline import Fact


@dataclass(frozen=True, slots=True)
class RewriteFallbacks:
    """Moves parts one by one, in order; `search-placements` does what takes more than that."""

    name: ClassVar[str] = "rewrite-fallbacks"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.SIZED, Fact.TIED})
    gives: ClassVar[frozenset[Fact]] = frozenset()

    def run(self, plan: Plan, diagnostics: Diagnostics) -> Plan:
        """Return the plan with less of it offloaded, or the plan itself."""
        return around_visits(plan, lambda around: self._place(around, diagnostics))

    def _place(self, plan: Plan, diagnostics: Diagnostics) -> Plan:
        del diagnostics
        return plan if plan.tree is None else refill(plan, plan.tree)

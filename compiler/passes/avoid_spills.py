"""Search for a placement without spills, but only where the plan at hand has one.

Strategies that promise an order or a spread keep their placement wherever it holds everything.

Before:
    plan 1
    model "m"
    device cuda:0 memory 3KiB
    device cuda:1 memory 4KiB
    device cpu memory 9KiB
    module a : Linear 2KiB
    module b : Linear 2KiB
    module c : Linear 1KiB
    module d : Linear 2KiB
    unit a
    unit b
    unit c
    unit d

After:
    plan 1
    model "m"
    device cuda:0 memory 3KiB
    device cuda:1 memory 4KiB
    device cpu memory 9KiB
    module a : Linear 2KiB
    module b : Linear 2KiB
    module c : Linear 1KiB
    module d : Linear 2KiB
    place a on cuda:1
    place b on cuda:1
    place c on cuda:0
    place d on cuda:0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...ir import Diagnostics, Plan
from .pipeline import Fact
from .search_placements import SearchPlacements


@dataclass(frozen=True, slots=True)
class AvoidSpills:
    """The options are those of `search-placements`."""

    name: ClassVar[str] = "avoid-spills"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.SIZED, Fact.TIED, Fact.OPENABLE})
    gives: ClassVar[frozenset[Fact]] = frozenset({Fact.PLACED})
    objective: str | None = None
    offload: str = "stream"
    time_limit: float = 10.0

    def run(self, plan: Plan, diagnostics: Diagnostics) -> Plan:
        """Return the plan itself if everything is on accelerators within their budgets."""
        from ..placing.repair import is_settled  # it uses the rewrite rules of other passes

        if plan.tree is None or is_settled(plan, plan.tree):
            return plan
        search = SearchPlacements(self.objective, self.offload, self.time_limit)
        return search.run(plan, diagnostics)

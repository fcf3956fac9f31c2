"""Repair what placing in order left behind: offloaded or unplaced parts go to any device with room.

The same idea is a rule while placing: `bring_forward` finds a later unit for a device that would
stay empty. What a person wrote is not moved.

Before:
    plan 1
    model "m"
    device cuda:0 memory 2KiB
    device cuda:1 memory 1KiB
    device cpu memory 8KiB
    module a : Linear 1KiB
    module b : Linear 2KiB
    module c : Linear 1KiB
    place a on cuda:0
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
    place a on cuda:0
    place b on cpu run on cuda:0
    place c on cuda:1
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from ...ir import Diagnostics, Plan
from ..placing.frontier import Worklist
from .pipeline import Fact


@dataclass(frozen=True, slots=True)
class RewriteFallbacks:
    """Moves parts one by one, in order; `search-placements` does what takes more than that."""

    name: ClassVar[str] = "rewrite-fallbacks"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.SIZED, Fact.TIED})
    gives: ClassVar[frozenset[Fact]] = frozenset()

    def run(self, plan: Plan, diagnostics: Diagnostics) -> Plan:
        """Return the plan with less of it offloaded, or the plan itself."""
        from ..placing.repair import refill  # it uses the rewrite rules of other passes

        del diagnostics
        return plan if plan.tree is None else refill(plan, plan.tree)


class Sizes(Protocol):
    """What looking for a smaller item asks."""

    def size(self, item: int) -> int:
        """Return what an item alone takes."""
        ...

    def partners(self, item: int, work: Worklist) -> tuple[list[int], int]:
        """Return the waiting items that must go along, and what they add."""
        ...


def bring_forward(sizes: Sizes, work: Worklist, limit: int) -> int | None:
    """Return the first waiting item that fits, looking into what can be opened; None if none does.

    What contains the item is opened where it waits, so that the item can be placed on its own.
    """
    if limit < 0:
        return None
    probe = work.copy()
    while (item := probe.pop()) is not None:
        if sizes.size(item) + sizes.partners(item, probe)[1] <= limit:
            work.open_above(item)
            return item
        if not probe.open(item):
            probe.done(item)
    return None

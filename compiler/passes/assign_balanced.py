"""Place units in order on budgets that spread the model evenly, as transformers' `balanced` means it.

Where such budgets would spill, the plan is placed on the full ones, for `avoid-spills` to do better.

Before:
    plan 1
    model "m"
    device cuda:0 memory 8KiB
    device cuda:1 memory 8KiB
    device cpu memory 8KiB
    unit a
    unit b
    unit c
    unit d
    module a : Linear 1KiB
    module b : Linear 1KiB
    module c : Linear 1KiB
    module d : Linear 1KiB

After:
    plan 1
    model "m"
    device cuda:0 memory 8KiB
    device cuda:1 memory 8KiB
    device cpu memory 8KiB
    place a on cuda:0
    place b on cuda:0
    place c on cuda:1
    place d on cuda:1
    module a : Linear 1KiB
    module b : Linear 1KiB
    module c : Linear 1KiB
    module d : Linear 1KiB
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ...ir import Device, Diagnostics, Plan, Reason, Unit
from .pipeline import Fact


@dataclass(frozen=True, slots=True)
class AssignBalanced:
    """``low_zero`` spares the first accelerator, which generating text needs for other things."""

    name: ClassVar[str] = "assign-balanced"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.SIZED, Fact.TIED, Fact.OPENABLE})
    gives: ClassVar[frozenset[Fact]] = frozenset()
    low_zero: bool = False

    def run(self, plan: Plan, diagnostics: Diagnostics) -> Plan:
        """Return the plan with a place for every unit that fits somewhere."""
        from ..placing.attempts import first_fit  # it uses the rewrite rules of other passes
        from ..placing.balanced import spread
        from ..placing.repair import refill, spills

        del diagnostics
        tree = plan.tree
        if tree is None or all(unit.store is not None for unit in plan.units):
            return plan

        def place(devices: tuple[Device, ...]) -> Plan | None:
            placed = refill(first_fit(replace(plan, devices=devices), tree), tree)
            return None if spills(placed) else placed

        found = spread(plan, place, low_zero=self.low_zero)
        if found is None:
            return first_fit(plan, tree)
        return replace(plan, units=tuple(_with_reason(unit) for unit in found.units))


def _with_reason(unit: Unit) -> Unit:
    return unit if unit.reason is Reason.WRITTEN else replace(unit, reason=Reason.BALANCED)

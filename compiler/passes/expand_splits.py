"""Cut the model into its first units: what stands directly below the root, opened where it must be.

A module above a pinned unit, or named by a `split` line, is opened: its parameters, its buffers and
its children become units of their own. What placing may open later is decided by `placing.frontier.openable`.

Before:
    plan 1
    model "m"
    split layers
    module layers : ModuleList
    module layers.{0..1} : Linear 2KiB
    module head : Linear 1KiB

After:
    plan 1
    model "m"
    split layers
    unit layers.{0..1}
    unit head
    module layers : ModuleList
    module layers.{0..1} : Linear 2KiB
    module head : Linear 1KiB
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ...ir import Diagnostics, ModuleTree, Plan, Unit
from ..placing.frontier import is_whole, item_at, item_path, opened, split_modules
from ..placing.visiting import above_tops, in_tree_order, visited_units
from .pipeline import Fact


@dataclass(frozen=True, slots=True)
class ExpandSplits:
    """Units that are there already stay as they are."""

    name: ClassVar[str] = "expand-splits"
    needs: ClassVar[frozenset[Fact]] = frozenset()
    gives: ClassVar[frozenset[Fact]] = frozenset({Fact.OPENABLE})

    def run(self, plan: Plan, diagnostics: Diagnostics) -> Plan:
        """Return the plan with units that cover every tensor."""
        del diagnostics
        tree = plan.tree
        if tree is None:
            return plan
        visited = visited_units(tree, plan.units, plan.constraints)
        apart = set(visited)
        rest = [unit for unit in plan.units if unit not in apart]
        given = {item: unit for unit in rest if (item := item_at(tree, unit.path)) is not None}
        forced = _forced(tree, plan, given)
        for module in above_tops(tree, visited, rest, plan.constraints):
            forced[module] = 1
        units: list[Unit] = []
        stack = [0]
        while stack:
            item = stack.pop()
            if item in given:
                units.append(given[item])
            elif item >= 0 and forced[item]:
                stack.extend(reversed(opened(tree, item)))
            else:
                units.append(Unit(item_path(tree, item)))
        return replace(plan, units=in_tree_order(tree, (*units, *visited)) if visited else tuple(units))


def _forced(tree: ModuleTree, plan: Plan, given: dict[int, Unit]) -> bytearray:
    """Mark the modules that must be opened: the root, what `split` names, and everything above a unit."""
    forced = bytearray(len(tree))
    forced[0] = not is_whole(plan.constraints)
    above = [tree.parents[item] if item >= 0 else tree.owners[~item] for item in given]
    for module in (*split_modules(tree, plan.constraints), *above):
        while module >= 0 and not (forced[module] and module):
            forced[module] = 1
            module = tree.parents[module]  # noqa: PLW2901  # climbs to the root
    return forced

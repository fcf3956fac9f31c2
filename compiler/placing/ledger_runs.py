"""On which devices a demand's bytes are, once a plan is placed.

A module's own forward runs where the nearest unit around it runs, whatever of it is visited elsewhere:
what it keeps for the next call is there, and what it holds for a moment is wherever a part of it runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...ir import ModuleTree, Plan, is_within
from ...ir.names import upwards
from .terms import demand_tensors


class Runs:
    """Where the demands of one placed plan are."""

    def __init__(self, plan: Plan, tree: ModuleTree, owner: Sequence[int]) -> None:
        self._tree, self._units, self._owner = tree, plan.units, owner
        self._by_path = {unit.path: unit.run for unit in plan.units}
        owning = set(owner)
        self._hollow = [unit for index, unit in enumerate(plan.units) if index not in owning]
        """Units whose parts hold all their tensors: what is left of them computes all the same."""

    def lasting(self, path: str) -> str | None:
        """Return where bytes that add up are: where the module's own forward runs."""
        around = (above for above in upwards(path) if above in self._by_path)
        if (nearest := next(around, None)) is not None:
            return self._by_path[nearest]
        return next(self._of_tensors(path), None)

    def momentary(self, path: str) -> dict[str | None, None]:
        """Return where bytes of a moment may be: wherever something of the module runs."""
        runs = dict.fromkeys(self._of_tensors(path))
        runs.update((unit.run, None) for unit in self._hollow if is_within(unit.path, path))
        return {**runs, self.lasting(path): None}

    def _of_tensors(self, path: str) -> Iterator[str | None]:
        for tensor in demand_tensors(self._tree, path):
            if self._owner[tensor] >= 0:
                yield self._units[self._owner[tensor]].run

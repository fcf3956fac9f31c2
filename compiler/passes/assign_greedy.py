"""Place units in order: each goes to the first device with room, and no device is returned to.

Where the loop is stuck it asks rewrite rules: open a unit that is tied to this one, open this one,
bring a later one forward. `accelerate` plays by the rules of `accelerate.infer_auto_device_map`.

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
    place . on cuda:0
    module a : Linear 1KiB
    module b : Linear 1KiB
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ...ir import Diagnostics, Plan
from .pipeline import Fact


@dataclass(frozen=True, slots=True)
class AssignGreedy:
    """``rules``: ``first-fit``, or ``accelerate`` with its ``fallback`` for devices left empty.

    ``offload`` is what happens to what accelerate offloads; after first fit, `search-placements` asks.
    """

    name: ClassVar[str] = "assign-greedy"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.SIZED, Fact.OPENABLE})
    gives: ClassVar[frozenset[Fact]] = frozenset()
    rules: Literal["first-fit", "accelerate"] = "first-fit"
    fallback: bool = False
    offload: str = "stream"

    def run(self, plan: Plan, diagnostics: Diagnostics) -> Plan:
        """Return the plan with a place for every unit that fits somewhere."""
        from ..accelerate.attempt import like_accelerate  # they use the rewrite rules of other passes
        from ..placing.attempts import first_fit

        if plan.tree is None or all(unit.store is not None for unit in plan.units):
            return plan
        if self.rules == "accelerate":
            return like_accelerate(plan, plan.tree, diagnostics, fallback=self.fallback, offload=self.offload)
        return first_fit(plan, plan.tree)

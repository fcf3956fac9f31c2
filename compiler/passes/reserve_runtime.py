"""Keep free what an accelerator's driver and libraries take before the first weight arrives.

A budget a person gives is meant for the model. A budget read from this machine is what is free before a
process starts its driver context there, so that is taken off as a reserve with its own ledger line; so it is
of a given budget of a whole card, where the plan has room for a workload nobody spoke of.

What torch's allocator holds beyond what is alive is told by a trace, as a demand of the whole model, the
workspaces of libraries included; it is needed on every accelerator alike.

Before:
    plan 1
    model "m"
    device cuda:0 memory 8MiB
    device cpu memory 8MiB

After:
    plan 1
    model "m"
    device cuda:0 memory 8MiB
    device cpu memory 8MiB
    reserve 1MiB on cuda:0 for "runtime" added
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Final

from ...ir import Demand, Device, Diagnostics, Plan, Reserve, is_accelerator
from ...ir.purposes import ALLOCATOR, KV_CACHE, RUNTIME
from ..machine.this_machine import FREE_BY_TOOL, FREE_BY_TORCH
from .pipeline import Fact

USUAL: Final = {FREE_BY_TOOL: 512 * 2**20, FREE_BY_TORCH: 128 * 2**20}
"""Bytes a process still takes of what is free, by who said so. The tool asks without a context: one of
CUDA 12 with torch's kernels takes 0.3-0.5 GiB. Asked through torch the context is there already, and the
workspaces of cuBLAS (8 MiB a stream, 32 MiB on Hopper) and kernels loaded on first use remain."""
_WHOLE_CARD: Final = 4 * 2**30
"""A smaller budget is no card's: whoever gives it has left the rest to others."""
_CARD: Final = 128 * 2**20
"""Below this a budget is a toy's: an allocator's segments would be most of it."""


@dataclass(frozen=True, slots=True)
class ReserveRuntime:
    """``nbytes`` is taken from every accelerator; None takes what is known of a budget's origin.

    Without ``allocator`` nothing is kept for torch's allocator: the strategy imitates a tool that keeps none.
    """

    name: ClassVar[str] = "reserve-runtime"
    needs: ClassVar[frozenset[Fact]] = frozenset()
    gives: ClassVar[frozenset[Fact]] = frozenset()
    nbytes: int | None = 2**20
    allocator: bool = True

    def run(self, plan: Plan, diagnostics: Diagnostics) -> Plan:
        """Return the plan with reserves for each accelerator that has none for these purposes."""
        del diagnostics
        written = {reserve.device for reserve in plan.reserves if reserve.purpose == RUNTIME}
        needed = [
            (device, _usual(plan, device) if self.nbytes is None else self.nbytes)
            for device in plan.devices
            if is_accelerator(device.name) and device.name not in written
        ]
        reserves = tuple(
            Reserve(min(nbytes, device.memory or nbytes), device.name, RUNTIME, added=True)
            for device, nbytes in needed
            if nbytes
        )
        return self._with_allocator(replace(plan, reserves=plan.reserves + reserves))

    def _with_allocator(self, plan: Plan) -> Plan:
        """Return the plan with what was told of the allocator as a reserve of every accelerator."""
        there: tuple[Demand | Reserve, ...] = (*plan.demands, *plan.reserves)
        told = [each.nbytes for each in there if _is_told(each)]
        plan = replace(
            plan,
            demands=tuple(each for each in plan.demands if not _is_told(each)),
            reserves=tuple(each for each in plan.reserves if not _is_told(each)),
        )
        if not told or self.nbytes is not None or not self.allocator:
            return plan  # nobody knows, or a person says what is taken
        written = {each.device for each in plan.reserves if each.purpose == ALLOCATOR}
        reserves = tuple(
            Reserve(max(told), device.name, ALLOCATOR, added=True)
            for device in plan.devices
            if is_accelerator(device.name)
            and device.name not in written
            and (device.memory or _CARD) >= _CARD
        )
        return replace(plan, reserves=plan.reserves + reserves)


def _is_told(each: Demand | Reserve) -> bool:
    return each.purpose == ALLOCATOR and each.added


def _usual(plan: Plan, device: Device) -> int:
    known = USUAL.get(device.origin.partition(" (")[0])
    if known is not None:
        return known
    assumed = plan.workload is not None and plan.workload.added
    counted = assumed and any(each.added and each.purpose == KV_CACHE for each in plan.demands)
    return USUAL[FREE_BY_TOOL] if counted and (device.memory or 0) >= _WHOLE_CARD else 0

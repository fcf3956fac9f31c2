"""Keep free what an accelerator's driver and libraries take before the first weight arrives.

A budget a person gives is meant for the model. A budget read from this machine is what is free before a
process starts its driver context there, so that is taken off as a reserve with its own ledger line; so it is
of a given budget of a whole card, where the plan has room for a workload nobody spoke of.

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

from ...ir import Device, Diagnostics, Plan, Reserve, is_accelerator
from ...ir.purposes import KV_CACHE, RUNTIME
from ..machine.this_machine import FREE_BY_TOOL, FREE_BY_TORCH
from .pipeline import Fact

USUAL: Final = {FREE_BY_TOOL: 512 * 2**20, FREE_BY_TORCH: 128 * 2**20}
"""Bytes a process still takes of what is free, by who said so. The tool asks without a context: one of
CUDA 12 with torch's kernels takes 0.3-0.5 GiB. Asked through torch the context is there already, and the
workspaces of cuBLAS (8 MiB a stream, 32 MiB on Hopper) and kernels loaded on first use remain."""
_WHOLE_CARD: Final = 4 * 2**30
"""A smaller budget is no card's: whoever gives it has left the rest to others."""


@dataclass(frozen=True, slots=True)
class ReserveRuntime:
    """``nbytes`` is taken from every accelerator; None takes what is known of a budget's origin."""

    name: ClassVar[str] = "reserve-runtime"
    needs: ClassVar[frozenset[Fact]] = frozenset()
    gives: ClassVar[frozenset[Fact]] = frozenset()
    nbytes: int | None = 2**20

    def run(self, plan: Plan, diagnostics: Diagnostics) -> Plan:
        """Return the plan with one reserve for each accelerator that has none for this purpose."""
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
        return replace(plan, reserves=plan.reserves + reserves)


def _usual(plan: Plan, device: Device) -> int:
    known = USUAL.get(device.origin.partition(" (")[0])
    if known is not None:
        return known
    assumed = plan.workload is not None and plan.workload.added
    counted = assumed and any(each.added and each.purpose == KV_CACHE for each in plan.demands)
    return USUAL[FREE_BY_TOOL] if counted and (device.memory or 0) >= _WHOLE_CARD else 0

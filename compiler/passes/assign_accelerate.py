"""Place units as `accelerate.infer_auto_device_map` does, room for its largest layer reserved.

A disk is its last resort, listed or not. What it does not know (pins, pools, demands, the bytes of a
bool) is law here: where its answer breaks one, first fit in order takes over.

Before:
    plan 1
    model "m"
    device cuda:0 memory 4KiB
    device cpu memory 8KiB
    unit a
    unit b
    module a : Linear 2KiB
    module b : Linear 1KiB

After:
    plan 1
    model "m"
    device cuda:0 memory 4KiB
    device cpu memory 8KiB
    place . on cuda:0 added
    module a : Linear 2KiB
    module b : Linear 1KiB
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from ...ir import (
    CPU,
    Device,
    Diagnostic,
    Diagnostics,
    LeftEmpty,
    ModuleTree,
    Plan,
    Reason,
    Unit,
    UnlistedDisk,
    device_type,
    host_of,
    human_size,
)
from ...ir.rules.searching import DOES_NOT_FIT
from ..accelerate.attempt import attempt_accelerate, with_disk
from ..placing.attempts import Attempt, fixed_items, place_units
from ..placing.findings import with_findings
from ..placing.first_fit import FirstFitRules
from ..placing.frontier import item_at, item_bytes
from ..placing.terms import terms_of
from ..placing.visiting import around_visits
from .assign_greedy import place_in_order
from .pipeline import Fact


@dataclass(frozen=True, slots=True)
class AssignAccelerate:
    """``fallback`` brings a later unit forward rather than leave a device empty, as accelerate's does.

    ``offload`` is what happens to what accelerate offloads: ``stream``, ``compute`` or ``none``.
    """

    name: ClassVar[str] = "assign-accelerate"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.SIZED, Fact.TIED, Fact.OPENABLE})
    gives: ClassVar[frozenset[Fact]] = frozenset({Fact.PLACED})
    fallback: bool = False
    offload: str = "stream"

    def run(self, plan: Plan, diagnostics: Diagnostics) -> Plan:
        """Return the plan with accelerate's places; a disk is added where it is the last resort."""
        return around_visits(plan, lambda around: self._place(around, diagnostics))

    def _place(self, plan: Plan, diagnostics: Diagnostics) -> Plan:
        tree = plan.tree
        if tree is None or all(unit.store is not None for unit in plan.units):
            return plan
        endless = replace(plan, devices=with_disk(plan.devices))
        real = replace(plan, devices=plan.devices + endless.devices[len(plan.devices) :])
        attempt = as_accelerate(endless, tree, fallback=self.fallback)
        if not FirstFitRules(real, tree, fixed_items(real, tree), {}).allow(attempt.places):
            attempt = place_in_order(real, tree)
        placed = with_findings(place_units(real, tree, attempt), LeftEmpty, _left_empty(real, attempt))
        homeless = [unit.path for unit in placed.units if unit.store is None]
        if homeless:
            diagnostics.add(_misfit(tree, homeless, ruled=not attempt.unplaced))
            return placed
        named = {name for unit in placed.units for name in (unit.store, unit.run)}
        used = tuple(d for i, d in enumerate(real.devices) if i < len(plan.devices) or d.name in named)
        unlisted = [_unlisted(placed, tree, added.name) for added in used[len(plan.devices) :]]
        placed = with_findings(replace(placed, devices=used), UnlistedDisk, unlisted)
        return _by_policy(placed, tree, self.offload, diagnostics)


def as_accelerate(plan: Plan, tree: ModuleTree, *, fallback: bool) -> Attempt:
    """Place by accelerate's rules; by first fit where those lead to no lawful placement."""
    attempt = attempt_accelerate(plan, tree, fallback=fallback)
    if attempt is not None:
        return attempt
    listed = any(device_type(device.name) == CPU for device in plan.devices)
    host = () if listed else (Device(CPU, 0),)  # accelerate's callers have a CPU whether they list it or not
    return place_in_order(replace(plan, devices=plan.devices + host), tree)


def _left_empty(plan: Plan, attempt: Attempt) -> list[LeftEmpty]:
    minima = ((plan.devices[device], nbytes) for device, nbytes in attempt.minima.items())
    return [LeftEmpty(device.name, nbytes) for device, nbytes in minima if device.memory]


def _unlisted(plan: Plan, tree: ModuleTree, disk: str) -> UnlistedDisk:
    items = [item_at(tree, unit.path) for unit in plan.units if unit.store == disk]
    return UnlistedDisk(disk, sum(item_bytes(tree, item) for item in items if item is not None))


def _misfit(tree: ModuleTree, homeless: Sequence[str], *, ruled: bool) -> Diagnostic:
    sizes = [item_bytes(tree, item) for path in homeless if (item := item_at(tree, path)) is not None]
    return Diagnostic(
        DOES_NOT_FIT,
        f"{human_size(sum(sizes))} of the model fit on no device",
        notes=(f"first `{homeless[0]}`, {human_size(sizes[0])}",),
        help="remove the `never` lines that leave it nothing to run on, or list another accelerator"
        if ruled
        else "raise a budget by that much, or use the strategy `auto`",
    )


def _by_policy(plan: Plan, tree: ModuleTree, offload: str, diagnostics: Diagnostics) -> Plan:
    """Return the plan with its offloaded units run as the policy says, or say that there may be none."""
    off = [unit for unit in plan.units if unit.store != unit.run and unit.reason is not Reason.WRITTEN]
    if not off or offload not in {"compute", "none"}:
        return plan
    if offload == "compute":
        streaming = [unit for unit in off if device_type(unit.run or CPU) != CPU]
        moved = {unit: replace(unit, run=_cpu_of(unit)) for unit in streaming}
        known = {device.name for device in plan.devices}
        added = dict.fromkeys(name for name in map(_cpu_of, moved) if name not in known)
        devices = (*plan.devices, *(Device(name, 0) for name in added))
        if (barred := _barred(plan, tree, streaming)) is not None:
            message = (
                f"`{barred.path or 'the model'}` would run on {_cpu_of(barred)}, which a `never` line forbids"
            )
            help_ = "remove the line, raise a budget, or allow `--offload stream`"
            diagnostics.add(Diagnostic(DOES_NOT_FIT, message, help=help_))
        return replace(plan, devices=devices, units=tuple(moved.get(unit, unit) for unit in plan.units))
    shown = off[0].path or "the model"
    diagnostics.add(
        Diagnostic(
            DOES_NOT_FIT,
            f"accelerate's placement stores `{shown}` on {off[0].store}, and nothing may be offloaded",
            help="raise a budget, use the strategy `auto`, or allow `--offload stream`",
        )
    )
    return plan


def _barred(plan: Plan, tree: ModuleTree, units: Sequence[Unit]) -> Unit | None:
    """Return the first unit that must not run on the CPU of the machine that stores it."""
    index = {device.name: i for i, device in enumerate(plan.devices)}
    banned = terms_of(plan, tree).banned
    pairs = ((unit, index.get(_cpu_of(unit))) for unit in units)
    return next(
        (unit for unit, cpu in pairs if any(cpu in banned.get(t, ()) for t in tree.covered(unit.path))), None
    )


def _cpu_of(unit: Unit) -> str:
    """Return the CPU of the machine that stores a unit."""
    return f"{host_of(unit.store or '')}/{CPU}".removeprefix("/")

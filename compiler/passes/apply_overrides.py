"""Turns hand-written lines into decisions the solver keeps: pinned units, rules, budgets, reserves.

Nested pins become disjoint units; what names nothing or contradicts another line is an error.

Before:

    plan 1
    device cuda:0 memory 8KiB
    device cpu memory 64KiB
    module . : Model
    module h : ModuleList
    module h.{0..2} : Linear 2KiB
    place h.* on cuda:0
    place h.1 on cpu run on cuda:0

After:

    plan 1
    device cuda:0 memory 8KiB
    device cpu memory 64KiB
    module . : Model
    module h : ModuleList
    module h.{0..2} : Linear 2KiB
    place h.0 on cuda:0
    place h.1 on cpu run on cuda:0
    place h.2 on cuda:0
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, TypeVar

from ...ir import (
    CPU,
    DISK,
    Cache,
    Demand,
    Device,
    Diagnostic,
    Diagnostics,
    Link,
    Plan,
    Reason,
    Reserve,
    Unit,
    Work,
    device_type,
)
from ...ir.rules.language import LINE_NEVER_WINS
from ..lines.agreement import disagreement
from ..lines.binding import bind_plan
from .pipeline import Fact

_Need = TypeVar("_Need", Demand, Work, Cache, Link)


@dataclass(frozen=True)
class ApplyOverrides:
    """Apply override plans in order; the deepest line wins, the later one among equals."""

    name: ClassVar[str] = "apply-overrides"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.TIED})
    gives: ClassVar[frozenset[Fact]] = frozenset()

    overrides: tuple[Plan, ...] = ()
    own: tuple[Unit, ...] = ()
    """What people wrote in the plan itself: the laws of a plan hold for it only once it is bound."""

    def run(self, plan: Plan, diagnostics: Diagnostics) -> Plan:
        """Return the plan with its pins, rules, devices and reserves; unchanged when nothing is written."""
        tree = plan.tree
        written = replace(plan, units=self.own + plan.units)
        if tree is None or not (self.overrides or _is_written(written)):
            return plan
        found = Diagnostics()
        merged = written
        for override in self.overrides:
            found.extend(filter(None, [disagreement(override, tree)]))
            merged = merge_override(merged, override)
        bound = bind_plan(merged, tree, found, complete=False)
        own = {id(unit.span.source) for unit in written.units if unit.span is not None}
        diagnostics.extend(each for each in found if not _is_overridden(each, own))
        return plan if found.errors else replace(bound, ties=plan.ties)


def _is_written(plan: Plan) -> bool:
    """Say whether a plan has lines of people."""
    nodes = (*plan.constraints, *plan.reserves, *plan.demands, *plan.caches)
    return bool(plan.units) or any(not node.added for node in nodes) or any(w.span for w in plan.work)


def _is_overridden(found: Diagnostic, own: set[int]) -> bool:
    """Say whether this is a line of the plan that an override was written to win over."""
    if found.rule is not LINE_NEVER_WINS or found.at is None or not found.also:
        return False
    return id(found.at.span.source) in own and id(found.also[0].span.source) not in own


def merge_override(plan: Plan, override: Plan) -> Plan:
    """Add the lines of one override, and exchange budgets; the same need again replaces what was said.

    Where the override is itself a compiled plan, all its places count, but not what its compile added.
    """
    written = [rule for rule in override.constraints if not rule.added]
    rules = {rule: rule for rule in (*plan.constraints, *written)}  # the span of the last
    reserves = [each for each in override.reserves if not each.added]
    again = {(reserve.device, reserve.purpose) for reserve in reserves}
    kept = [each for each in plan.reserves if (each.device, each.purpose) not in again]
    machine = _is_machine(override)
    devices = override.devices if machine else _exchange(plan.devices, override.devices)
    load = override.workload
    return replace(
        plan,
        model=replace(plan.model, name=override.model.name or plan.model.name),
        devices=devices,
        links=override.links if machine else _latest(plan.links, override.links, lambda x: {x.a, x.b}),
        workload=plan.workload if load is None or load.added else load,
        constraints=tuple(rules.values()),
        ties=plan.ties + override.ties,
        units=plan.units + tuple(replace(unit, reason=Reason.WRITTEN) for unit in override.units),
        demands=_latest(plan.demands, override.demands, lambda each: (each.path, each.purpose)),
        work=_latest(plan.work, override.work, lambda each: each.path),
        caches=_latest(plan.caches, override.caches, lambda each: (each.patterns, each.device)),
        reserves=_of_devices((*kept, *reserves), devices, again),
    )


def _latest(
    before: Sequence[_Need], after: Sequence[_Need], key: Callable[[_Need], object]
) -> tuple[_Need, ...]:
    again = [key(each) for each in after]
    kept = [each for each in before if key(each) not in again]
    kept.extend(each for each in after if not getattr(each, "added", False))
    return tuple(kept)


def _is_machine(override: Plan) -> bool:
    """Say whether a text describes a machine: devices and their reserves, nothing else."""
    rules, needs = (override.units, override.constraints, override.ties), (override.demands, override.work)
    others = (*rules, *needs, override.caches, override.options)
    return bool(override.devices) and not any(others)


def _of_devices(
    reserves: Sequence[Reserve], devices: Sequence[Device], written: set[tuple[str, str]]
) -> tuple[Reserve, ...]:
    """Drop reserves of devices an override took away; those it wrote itself stay, to be reported."""
    names = {device.name for device in devices}
    return tuple(each for each in reserves if each.device in names or (each.device, each.purpose) in written)


def _exchange(devices: Sequence[Device], written: Sequence[Device]) -> tuple[Device, ...]:
    """Replace budgets in place; new devices go behind the last of their tier in filling order."""
    new = {device.name: device for device in written}
    known = {device.name for device in devices}
    result = [_renewed(device, new[device.name]) if device.name in new else device for device in devices]
    for device in written:
        if device.name not in known:
            at = sum(1 for each in result if _tier(each) <= _tier(device))
            result.insert(at, device)
    return tuple(result)


def _renewed(device: Device, line: Device) -> Device:
    """Return a device with the budget of its line; what the line does not say of it stays."""
    said: dict[str, Any] = {name: getattr(line, name) or getattr(device, name) for name in _KEPT}
    pooled = line if line.pool else device
    return replace(line, pool=pooled.pool, pool_memory=pooled.pool_memory, **said)


_KEPT: Final = (
    "margin", "bandwidth", "few", "link", "flops", "latency", "launch", "dtype_flops", "measured", "at",
)  # fmt: skip


def _tier(device: Device) -> int:
    return {CPU: 1, DISK: 2}.get(device_type(device.name), 0)

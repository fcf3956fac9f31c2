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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from ...grammar.words import path_of, spell_path
from ...ir import (
    CPU,
    DISK,
    STREAMING,
    Atomic,
    Constraint,
    Device,
    Diagnostic,
    Diagnostics,
    Label,
    ModuleTree,
    Never,
    Plan,
    Reason,
    Reserve,
    Span,
    Split,
    TieGroup,
    Together,
    atomic_modules,
    device_type,
    verify,
)
from ...ir.near import near_name
from ...ir.patterns import match_paths
from ...ir.rules.language import CONTRADICTION, UNKNOWN_CLASS, UNKNOWN_PATH
from ...ir.rules.laws import TENSOR_WITHOUT_PLACE, UNDECLARED_DEVICE
from ..lines.binding import Pins, bind_units, disjoint_units
from ..lines.contradictions import check_pins
from ..lines.unknown_paths import Unknown, report_unknown
from .pipeline import Fact


@dataclass(frozen=True)
class ApplyOverrides:
    """Apply override plans in order; the deepest line wins, the later one among equals."""

    name: ClassVar[str] = "apply-overrides"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.TIED})
    gives: ClassVar[frozenset[Fact]] = frozenset()

    overrides: tuple[Plan, ...] = ()

    def run(self, plan: Plan, diagnostics: Diagnostics) -> Plan:
        """Return the plan with its pins, rules, devices and reserves; unchanged when nothing is written."""
        tree = plan.tree
        pinned = [unit for unit in plan.units if unit.store and unit.reason is Reason.WRITTEN]
        if tree is None or not (self.overrides or pinned):
            return plan
        found = Diagnostics()
        merged = plan
        for override in self.overrides:
            merged = _merge(merged, override)
            _check_rules(tree, override.constraints, found)
            _check_ties(tree, override.ties, found)
        found.extend(_undeclared(merged.devices, self.overrides))
        written = pinned + [unit for each in self.overrides for unit in each.units if unit.store]
        pins = bind_units(tree, written, merged.devices, found)
        check_pins(merged, pins.units, pins.owners, found)
        diagnostics.extend(found)
        if found.errors:
            return plan
        pinned_plan = replace(merged, units=tuple(disjoint_units(_whole(pins, merged.constraints))))
        # What people wrote is theirs to mend, so a broken law is their finding here and not a bug of ours.
        diagnostics.extend(law for law in verify(pinned_plan) if law.rule is not TENSOR_WITHOUT_PLACE)
        return pinned_plan


def _merge(plan: Plan, override: Plan) -> Plan:
    """Add the rules, demands and reserves of one override, and exchange budgets."""
    rules = {rule: rule for rule in (*plan.constraints, *override.constraints)}  # the span of the last
    again = {(reserve.device, reserve.purpose) for reserve in override.reserves}
    kept = [each for each in plan.reserves if (each.device, each.purpose) not in again]
    devices = override.devices if _is_machine(override) else _exchange(plan.devices, override.devices)
    return replace(
        plan,
        devices=devices,
        constraints=tuple(rules.values()),
        demands=tuple(dict.fromkeys((*plan.demands, *override.demands))),
        work=tuple(dict.fromkeys((*plan.work, *override.work))),
        reserves=_of_devices((*kept, *override.reserves), devices, again),
    )


def _is_machine(override: Plan) -> bool:
    """Say whether a text describes a machine: devices and their reserves, nothing else."""
    others = (override.units, override.constraints, override.ties, override.demands, override.work)
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
    result = [new.get(device.name, device) for device in devices]
    for device in written:
        if device.name not in known:
            at = sum(1 for each in result if _tier(each) <= _tier(device))
            result.insert(at, device)
    return tuple(result)


def _tier(device: Device) -> int:
    return {CPU: 1, DISK: 2}.get(device_type(device.name), 0)


def _check_rules(tree: ModuleTree, rules: Sequence[Constraint], diagnostics: Diagnostics) -> None:
    unknown: list[Unknown] = []
    for rule in rules:
        match rule:
            case Atomic(target, by_class=True):
                if target not in tree.classes:
                    diagnostics.add(unknown_class(tree, target, rule.span))
            case Atomic(target) if target in tree.classes and not match_paths(tree, target):
                diagnostics.add(_class_as_path(target, rule.span))
            case Atomic():
                unknown += _unmatched(tree, (rule.target,), rule.span)
            case Split() | Never():
                unknown += _unmatched(tree, (rule.pattern,), rule.span)
            case Together():
                unknown += _unmatched(tree, rule.patterns, rule.span)
    if unknown:
        report_unknown(tree, unknown, diagnostics)


def _unmatched(tree: ModuleTree, patterns: Sequence[str], span: Span | None) -> Iterator[Unknown]:
    return (Unknown(pattern, span) for pattern in patterns if not match_paths(tree, pattern))


def unknown_class(tree: ModuleTree, name: str, span: Span | None = None) -> Diagnostic:
    """Say that no module has this class, with the class that was meant or those there are."""
    classes = dict.fromkeys(tree.classes)
    near = near_name(name, classes)
    listed = ", ".join(f"`{each}`" for each in [*classes][:8])
    return Diagnostic(
        UNKNOWN_CLASS,
        f"no module of this model is a `{name}`",
        Label(span, "no such class") if span else None,
        notes=(f"classes are {listed}{', ...' if len(classes) > 8 else ''}",),
        help=f"did you mean `{near}`?" if near else "correct or remove the line",
    )


def _class_as_path(name: str, span: Span | None) -> Diagnostic:
    return Diagnostic(
        UNKNOWN_PATH,
        f"`{name}` is a class of this model, not a path",
        Label(span, "a class") if span else None,
        help=f"write `atomic class {name}`",
    )


def _check_ties(tree: ModuleTree, ties: Sequence[TieGroup], diagnostics: Diagnostics) -> None:
    """Report ties the model does not have: a text cannot make two tensors share storage."""
    unknown: list[Unknown] = []
    for tie in ties:
        missing = [path for path in tie.tensors if path not in tree.tensor_index]
        unknown += (Unknown(path, tie.span) for path in missing)
        storages = {tree.storages[tree.tensor_index[path]] for path in tie.tensors if path not in missing}
        if len(storages) > 1:
            named = " and ".join(f"`{path}`" for path in tie.tensors[:2])
            message = f"{named} do not share storage in this model"
            at = Label(tie.span, "not tied in the model") if tie.span else None
            hint = f"write `together {' '.join(spell_path(path_of(path)) for path in tie.tensors)}`"
            diagnostics.add(Diagnostic(CONTRADICTION, message, at, help=f"{hint}, or remove the line"))
    if unknown:
        report_unknown(tree, unknown, diagnostics)


def _undeclared(devices: Sequence[Device], overrides: Sequence[Plan]) -> Iterator[Diagnostic]:
    declared = [device.name for device in devices]
    listed = ", ".join(f"`{name}`" for name in declared) or "nothing"
    for name, span in _named_devices(overrides):
        if name in declared:
            continue
        alike = [each for each in declared if device_type(each) == device_type(name)]
        near = alike[0] if len(alike) == 1 else near_name(name, declared)
        yield Diagnostic(
            UNDECLARED_DEVICE,
            f"no device is named `{name}`",
            Label(span, "not declared") if span else None,
            notes=(f"declared here: {listed}",),
            help=f"did you mean `{near}`?" if near else f"add `device {name} memory 10GiB`",
        )


def _named_devices(overrides: Sequence[Plan]) -> Iterator[tuple[str, Span | None]]:
    for override in overrides:
        for unit in override.units:
            places = {unit.store, unit.run} - {None}
            yield from ((name, unit.span) for name in sorted(filter(None, places)))
        yield from ((reserve.device, reserve.span) for reserve in override.reserves)
        yield from (
            (rule.device, rule.span)
            for rule in override.constraints
            if isinstance(rule, Never) and rule.device != STREAMING
        )


def _whole(pins: Pins, rules: Sequence[Constraint]) -> Pins:
    """Make one pin of the pins that together place a whole atomic module in one place."""
    tree, units, owners = pins.tree, [*pins.units], [*pins.owners]
    for rule in rules:
        for module in atomic_modules(tree, (rule,)):
            inside = tree.tensors(module)
            parts = {owners[tensor] for tensor in inside}
            if len(parts) > 1:
                units.append(replace(units[min(parts)], path=tree.paths[module]))
                owners[inside.start : inside.stop] = [len(units) - 1] * len(inside)
    return Pins(tree, tuple(units), tuple(owners))

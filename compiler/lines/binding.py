"""Binding lines to a model: patterns to paths, nested places to disjoint units, and what is missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from ...grammar.ranges import fold_paths
from ...grammar.words import spell_path
from ...ir import (
    CPU,
    DISK,
    Device,
    Diagnostic,
    Diagnostics,
    Label,
    ModuleTree,
    Plan,
    Role,
    Unit,
    device_type,
    is_accelerator,
    is_within,
    unit_of_tensors,
)
from ...ir.patterns import match_paths, outermost
from ...ir.rules.language import LINE_NEVER_WINS
from ...ir.rules.laws import TENSOR_WITHOUT_PLACE
from .contradictions import check_pins
from .unknown_paths import Unknown, report_unknown


@dataclass(frozen=True)
class Pins:
    """Concrete places as written, nested ones included, and which of them decides each tensor."""

    tree: ModuleTree
    units: tuple[Unit, ...]
    owners: tuple[int, ...]
    """Index into ``units`` for each tensor; -1 where nothing was written."""


def bind_plan(plan: Plan, tree: ModuleTree, diagnostics: Diagnostics) -> Plan:
    """Bind a complete plan to a model: disjoint units in tree order that cover every tensor.

    Reports what names nothing, what contradicts itself and what has no place, one finding for each
    missing module; then the plan comes back as it was, with the tree.
    """
    found = Diagnostics()
    pins = bind_units(tree, [unit for unit in plan.units if unit.store is not None], plan.devices, found)
    if plan.model.digest is None:
        pins = replace(pins, owners=_with_followers(pins))
    check_pins(replace(plan, tree=tree), pins.units, pins.owners, found)
    if not found.errors:
        found.extend(_missing(pins))
    diagnostics.extend(found)
    bound = replace(plan, tree=tree)
    return bound if found.errors else replace(bound, units=tuple(disjoint_units(pins)))


def bind_units(
    tree: ModuleTree, units: Sequence[Unit], devices: Sequence[Device], diagnostics: Diagnostics
) -> Pins:
    """Expand wildcards and find out which line decides each tensor; reports lines that name nothing."""
    unknown: list[Unknown] = []
    concrete: list[Unit] = []
    for unit in units:
        paths = match_paths(tree, unit.path)
        if not paths:
            unknown.append(Unknown(unit.path, unit.span))
        placed = replace(unit, run=_runner(unit, devices))
        concrete += (replace(placed, path=path) for path in outermost(paths))
    if unknown:
        report_unknown(tree, unknown, diagnostics)
    pins = Pins(tree, tuple(concrete), tuple(unit_of_tensors(tree, concrete)))
    diagnostics.extend(_never_winning(pins))
    return pins


def _with_followers(pins: Pins) -> tuple[int, ...]:
    """Return who decides each tensor, with what no checkpoint holds and so no plan made from one names.

    Another name of a tensor goes where the tensor is; a buffer made by its constructor goes with the
    tensor before it.
    """
    tree, owners = pins.tree, list(pins.owners)
    placed: dict[int, int] = {}
    for storage, owner in zip(tree.storages, owners, strict=True):
        if owner >= 0:
            placed.setdefault(storage, owner)
    nearest = next((owner for owner in owners if owner >= 0), -1)
    for tensor, owner in enumerate(owners):
        if owner < 0 and tree.storages[tensor] in placed:
            owners[tensor] = placed[tree.storages[tensor]]
        elif owner < 0 and tree.roles[tensor] is Role.TRANSIENT:
            owners[tensor] = nearest
        nearest = owners[tensor] if owners[tensor] >= 0 else nearest
    return tuple(owners)


def _runner(unit: Unit, devices: Sequence[Device]) -> str | None:
    """Return where a unit runs; what is written on a disk runs on the first accelerator, else the CPU."""
    if unit.run is None or device_type(unit.run) != DISK:
        return unit.run
    names = [device.name for device in devices]
    return next(filter(is_accelerator, names), CPU)


def _never_winning(pins: Pins) -> Iterator[Diagnostic]:
    winners = set(pins.owners)
    spoken = {_line(unit) for index, unit in enumerate(pins.units) if index in winners}
    for unit in pins.units:
        covered = pins.tree.covered(unit.path)
        if unit.span is None or _line(unit) in spoken or not covered:
            continue
        spoken.add(_line(unit))
        later = pins.units[pins.owners[covered.start]].span
        yield Diagnostic(
            LINE_NEVER_WINS,
            f"this line for `{unit.path or '.'}` decides nothing",
            Label(unit.span, "never wins"),
            (Label(later, "this line decides"),) if later else (),
            help="remove the line",
        )


def _line(unit: Unit) -> tuple[int, int] | None:
    """Identify the line a unit was written in; comparing sources would compare whole texts."""
    return None if unit.span is None else (id(unit.span.source), unit.span.start)


def disjoint_units(pins: Pins) -> list[Unit]:
    """Return units that do not nest and place every tensor as the nested ones do, in tree order."""
    tree, owners = pins.tree, pins.owners
    changes = [0, *accumulate(int(a != b) for a, b in pairwise(owners))]
    explicit = {unit.path: unit for unit in pins.units}
    found: list[Unit] = []
    stack: list[tuple[int, int]] = [(0, -1)]
    while stack:
        module, tensor = stack.pop()
        if tensor >= 0:
            if owners[tensor] >= 0:
                found.append(replace(pins.units[owners[tensor]], path=tree.tensor_paths[tensor]))
            continue
        inside, path = tree.tensors(module), tree.paths[module]
        if not inside:
            found += [explicit[path]] if path in explicit else []
            continue
        if changes[inside.stop - 1] == changes[inside.start]:
            owner = owners[inside.start]
            if owner >= 0 and is_within(path, pins.units[owner].path):
                found.append(replace(pins.units[owner], path=path))
                continue
            if owner < 0 and not _tensorless_inside(tree, module, explicit):
                continue
        stack += [(child, -1) for child in reversed(tree.children(module))]
        stack += [(module, tensor) for tensor in reversed(tree.own_tensors(module))]
    return found


def _tensorless_inside(tree: ModuleTree, module: int, explicit: dict[str, Unit]) -> bool:
    return any(is_within(path, tree.paths[module]) for path in explicit)


def _missing(pins: Pins) -> Iterator[Diagnostic]:
    """Name what no line places: the largest modules, stacks as ranges."""
    tree, owners = pins.tree, pins.owners
    without = [0, *accumulate(int(owner < 0) for owner in owners)]
    if not without[-1]:
        return
    missing: list[str] = []
    stack: list[int] = [0]
    while stack:
        module = stack.pop()
        inside = tree.tensors(module)
        count = without[inside.stop] - without[inside.start]
        if count and count == len(inside):
            missing.append(tree.paths[module])
        elif count:
            missing += [tree.tensor_paths[i] for i in tree.own_tensors(module) if owners[i] < 0]
            stack += reversed(tree.children(module))
    device = pins.units[-1].store if pins.units else CPU
    for folded in fold_paths(missing):
        what, count = spell_path(folded.path), folded.count
        yield Diagnostic(
            TENSOR_WITHOUT_PLACE,
            f"`{what}` has no place" if count == 1 else f"the {count} members of `{what}` have no place",
            help=f"add `place {what} on {device}`",
        )

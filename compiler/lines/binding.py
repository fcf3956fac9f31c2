"""Binding lines to a model: patterns to paths, nested places to units, and what is missing.

Units are flattened through what may be opened. In a module that is never split nested places stay nested:
its parts are visited.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import TypeVar

from ...grammar.ranges import fold_paths
from ...grammar.words import spell_path
from ...ir import (
    CPU,
    DISK,
    Atomic,
    Constraint,
    Demand,
    Device,
    Diagnostic,
    Diagnostics,
    Label,
    ModuleTree,
    Plan,
    Role,
    Unit,
    Work,
    atomic_modules,
    device_type,
    home_of,
    is_accelerator,
    is_within,
    never_visited,
    parts_apart,
    unit_of_tensors,
    verify,
)
from ...ir.changes import line_added, line_removed
from ...ir.patterns import match_paths, outermost
from ...ir.rules.language import LINE_NEVER_WINS
from ...ir.rules.laws import TENSOR_WITHOUT_PLACE
from ..placing.grains import layer_modules
from .contradictions import check_pins
from .option_lines import check_options
from .references import check_references

_Need = TypeVar("_Need", Demand, Work)


@dataclass(frozen=True)
class Pins:
    """Concrete places as written, nested ones included, and which of them decides each tensor."""

    tree: ModuleTree
    units: tuple[Unit, ...]
    owners: tuple[int, ...]
    """Index into ``units`` for each tensor; -1 where nothing was written."""


def bind_plan(plan: Plan, tree: ModuleTree, diagnostics: Diagnostics, *, complete: bool = True) -> Plan:
    """Bind the lines of a plan to a model: units in tree order, and needs without wildcards.

    The one road of every line: of an override, a complete plan, a half-placed one, for the loader and the
    editor. Reports what names nothing, what contradicts itself, what can never win, and, in a plan that is
    ``complete``, what has no place, one finding for each missing module; then the plan comes back as it
    was, with the tree. A `unit` line only says what starts as one unit: places win over it.
    """
    found = Diagnostics()
    check_options(plan, found)
    check_references(plan, tree, found)
    pins = bind_units(tree, [unit for unit in plan.units if unit.store is not None], plan.devices)
    found.extend(_never_winning(pins))
    if complete and plan.model.digest is None:
        pins = replace(pins, owners=_with_followers(pins))
    bound = replace(plan, tree=tree)
    check_pins(bound, pins.units, pins.owners, found)
    if complete and not found.errors:
        found.extend(_missing(pins))
    diagnostics.extend(found)
    if found.errors:
        return bound
    units = [
        *bound_units(_whole(pins, plan.constraints), plan.constraints),
        *_without_place(tree, plan.units, pins),
    ]
    bound = replace(
        bound,
        units=tuple(units),
        demands=tuple(_concrete(tree, plan.demands)),
        work=tuple(_concrete(tree, plan.work)),
    )
    # What people wrote is theirs to mend, so a broken law is their finding here and not a bug of ours.
    laws = verify(bound)
    diagnostics.extend(law for law in laws if complete or law.rule is not TENSOR_WITHOUT_PLACE)
    return bound


def bind_units(tree: ModuleTree, units: Sequence[Unit], devices: Sequence[Device]) -> Pins:
    """Expand wildcards and find out which line decides each tensor; what names nothing decides nothing."""
    concrete: list[Unit] = []
    for unit in units:
        placed = replace(unit, run=_runner(unit, devices))
        concrete += (replace(placed, path=path) for path in outermost(match_paths(tree, unit.path)))
    return Pins(tree, tuple(concrete), tuple(unit_of_tensors(tree, concrete)))


def _without_place(tree: ModuleTree, units: Sequence[Unit], pins: Pins) -> Iterator[Unit]:
    """Yield the units that are still to be placed: those in which nothing has a place."""
    for unit in units:
        if unit.store is None:
            for path in outermost(match_paths(tree, unit.path)):
                inside = tree.covered(path)
                if all(pins.owners[tensor] < 0 for tensor in inside):
                    yield replace(unit, path=path)


def _concrete(tree: ModuleTree, needs: Sequence[_Need]) -> Iterator[_Need]:
    """Yield demands, or work, with the paths their wildcards name."""
    for need in needs:
        yield from (replace(need, path=path) for path in outermost(match_paths(tree, need.path)))


def _whole(pins: Pins, rules: Sequence[Constraint]) -> Pins:
    """Make one pin of the pins that together place a whole atomic module in one place."""
    tree, units, owners = pins.tree, [*pins.units], [*pins.owners]
    for module in atomic_modules(tree, rules):
        inside = tree.tensors(module)
        parts = {owners[tensor] for tensor in inside}
        places = {(units[owner].store, units[owner].run) if owner >= 0 else None for owner in parts}
        if len(parts) > 1 and len(places) == 1:
            units.append(replace(units[min(parts)], path=tree.paths[module]))
            owners[inside.start : inside.stop] = [len(units) - 1] * len(inside)
    return Pins(tree, tuple(units), tuple(owners))


def with_ties(pins: Pins) -> Pins:
    """Return who decides each tensor where other names of a placed tensor go with it."""
    storages, placed = pins.tree.storages, dict[int, int]()
    for storage, owner in zip(storages, pins.owners, strict=True):
        if owner >= 0:
            placed.setdefault(storage, owner)
    owners = (
        owner if owner >= 0 else placed.get(storage, -1)
        for storage, owner in zip(storages, pins.owners, strict=True)
    )
    return replace(pins, owners=tuple(owners))


def _with_followers(pins: Pins) -> tuple[int, ...]:
    """Return who decides each tensor, with what no checkpoint holds and so no plan made from one names.

    Another name of a tensor goes where the tensor is; a buffer made by its constructor goes with the
    tensor before it.
    """
    tree, owners = pins.tree, list(with_ties(pins).owners)
    nearest = next((owner for owner in pins.owners if owner >= 0), -1)
    for tensor, owner in enumerate(owners):
        if owner < 0 and tree.roles[tensor] is Role.TRANSIENT:
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
            about=unit.path,
            fixes=line_removed(unit.span),
        )


def _line(unit: Unit) -> tuple[int, int] | None:
    """Identify the line a unit was written in; comparing sources would compare whole texts."""
    return None if unit.span is None else (id(unit.span.source), unit.span.start)


def bound_units(pins: Pins, rules: Sequence[Constraint] = ()) -> list[Unit]:
    """Return units that place every tensor as the nested lines do, in tree order.

    They nest only in what is never split: there the inner ones are visited.
    """
    tree, owners = pins.tree, pins.owners
    changes = [0, *accumulate(int(a != b) for a, b in pairwise(owners))]
    explicit = {unit.path: unit for unit in pins.units}
    closed = _closed(pins, rules)
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
            if owner >= 0 and _as_a_whole(path, pins.units[owner].path):
                found.append(replace(pins.units[owner], path=path))
                continue
            if owner < 0 and not _tensorless_inside(tree, module, explicit):
                continue
        elif module in closed:
            found += _with_visits(pins, module, never_visited(tree, rules))
            continue
        stack += [(child, -1) for child in reversed(tree.children(module))]
        stack += [(module, tensor) for tensor in reversed(tree.own_tensors(module))]
    return found


def _as_a_whole(path: str, decided_by: str) -> bool:
    """Say whether a module is one unit: a line names it or what is around it, or a line elsewhere does.

    The latter decides modules whose tensors are other names of placed ones: their calls go there too.
    """
    return is_within(path, decided_by) or not is_within(decided_by, path)


def _closed(pins: Pins, rules: Sequence[Constraint]) -> frozenset[int]:
    """Return the modules whose parts can only be visited.

    Where no rule says what may be cut, repeated layers are taken to be whole if lines nest in them.
    """
    tree = pins.tree
    if any(isinstance(rule, Atomic) for rule in rules):
        return frozenset(atomic_modules(tree, rules))
    layers = layer_modules(tree)
    return frozenset(
        module
        for module in layers
        if any(
            owner >= 0 and is_within(tree.paths[module], pins.units[owner].path)
            for owner in dict.fromkeys(pins.owners[tree.tensors(module).start : tree.tensors(module).stop])
        )
    )


def _with_visits(pins: Pins, module: int, banned: frozenset[int]) -> Iterator[Unit]:
    """Yield a module that is never split, and what of it is elsewhere."""
    tree, units, owners = pins.tree, pins.units, pins.owners
    home = home_of(tree, module, owners, units, banned)
    if home >= 0:
        yield replace(units[home], path=tree.paths[module])
    for part in parts_apart(tree, module, owners, units, banned):
        if part.owner >= 0:
            yield replace(units[part.owner], path=part.path)


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
            about=what,
            fixes=line_added(f"place {what} on {device}"),
        )

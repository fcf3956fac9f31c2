"""What lines demand of each other: each check finds one kind of contradiction and shows both lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

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
    Phase,
    Plan,
    Span,
    Split,
    Together,
    Unit,
    atomic_modules,
    device_type,
    exact_size,
    human_size,
    is_within,
    never_visited,
    parts_apart,
    why_not,
)
from ...ir.changes import line_removed, line_written
from ...ir.patterns import match_paths
from ...ir.rules.language import CONTRADICTION, PIN_INSIDE_ATOMIC, PINS_OVER_BUDGET, SPLIT_OF_LEAF
from ..placing.terms import terms_of

_Place: TypeAlias = tuple[str | None, str | None]


def check_pins(plan: Plan, units: Sequence[Unit], owners: Sequence[int], diagnostics: Diagnostics) -> None:
    """Report every contradiction between places, rules and budgets; ``owners`` index ``units`` by tensor."""
    tree = plan.tree
    if tree is None:
        raise ValueError("places are checked against a module tree")
    diagnostics.extend(_ties_apart(tree, units, owners))
    drawn = _drawn(plan, tree, owners)
    banned = never_visited(tree, plan.constraints)
    for rule in plan.constraints:
        match rule:
            case Never():
                diagnostics.extend(_forbidden(tree, rule, units, drawn))
            case Together():
                diagnostics.extend(_members_apart(tree, rule, units, drawn))
            case Split():
                diagnostics.extend(_cannot_split(tree, rule, plan.constraints))
            case Phase():
                pass  # when parts are in use contradicts no place
            case Atomic():
                diagnostics.extend(_cut(tree, rule, units, owners, banned))
    diagnostics.extend(_nowhere(tree, plan))
    diagnostics.extend(_over_budget(plan, tree, units, owners))


def _drawn(plan: Plan, tree: ModuleTree, owners: Sequence[int]) -> Sequence[int]:
    """Return what decides each tensor when a place draws along what is placed as one with it."""
    if all(owner < 0 for owner in owners):
        return owners
    drawn = list(owners)
    for group in terms_of(plan, tree).groups:
        placed = [owners[tensor] for tensor in group if owners[tensor] >= 0]
        for tensor in group if placed else ():
            drawn[tensor] = placed[-1] if owners[tensor] < 0 else owners[tensor]
    return drawn


def _labels(*spans: tuple[Span | None, str]) -> tuple[Label | None, tuple[Label, ...]]:
    """Return the first place that exists, and the others."""
    labels = [Label(span, text) for span, text in spans if span is not None]
    return (labels[0], tuple(labels[1:])) if labels else (None, ())


def _shown(path: str) -> str:
    return path or "."


def _line(unit: Unit, device: str | None, path: str | None = None) -> str:
    """Return a line that places a unit, or what is around it, on one device."""
    return f"place {spell_path(path_of(unit.path if path is None else path))} on {device or unit.store}"


def _forbidden(
    tree: ModuleTree, rule: Never, units: Sequence[Unit], owners: Sequence[int]
) -> Iterator[Diagnostic]:
    for path in match_paths(tree, rule.pattern):
        for owner in dict.fromkeys(owners[tensor] for tensor in tree.covered(path)):
            if owner < 0 or not _breaks(rule, units[owner]):
                continue
            unit = units[owner]
            at, also = _labels((unit.span, "placed there"), (rule.span, "forbidden here"))
            message = f"`{_shown(unit.path)}` is placed on `{rule.device}`, where `{path}` may never be"
            help_, fixes = "remove one of the two lines", line_removed(unit.span, rule.span)
            if rule.device == STREAMING:
                message = (
                    f"`{_shown(unit.path)}` is streamed to `{unit.run}`, and `{_shown(path)}` may never be"
                )
                there, here = _line(unit, unit.run), _line(unit, CPU)
                help_ = f"write `{there}` or `{here}`"
                fixes = (*line_written(unit.span, there), *line_written(unit.span, here))
            yield Diagnostic(CONTRADICTION, message, at, also, help=help_, about=unit.path, fixes=fixes)
            return


def _breaks(rule: Never, unit: Unit) -> bool:
    if rule.device == STREAMING:
        return unit.run is not None and unit.store != unit.run
    return rule.device in {unit.store, unit.run}


def _nowhere(tree: ModuleTree, plan: Plan) -> Iterator[Diagnostic]:
    """Report what `never` lines keep away from every device that computes: a disk alone is of no use."""
    rules = [rule for rule in plan.constraints if isinstance(rule, Never)]
    devices = {device.name for device in plan.devices if device_type(device.name) != DISK}
    if not devices or not devices <= {rule.device for rule in rules}:
        return
    disks = len(devices) < len(plan.devices)
    forbidding: dict[int, dict[str, Never]] = {}
    for rule in rules:
        for path in match_paths(tree, rule.pattern):
            for tensor in tree.covered(path):
                forbidding.setdefault(tensor, {})[rule.device] = rule
    for group in terms_of(plan, tree).groups:  # what is one with it may be nowhere else either
        forbidding[group[0]] = {name: rule for one in group for name, rule in forbidding.get(one, {}).items()}
    for tensor, by_device in forbidding.items():
        if devices <= by_device.keys():
            last, *others = [by_device[name] for name in sorted(devices, reverse=True)]
            at, also = _labels((last.span, "and not here"), *((each.span, "not here") for each in others))
            path = tree.tensor_paths[tensor]
            yield Diagnostic(
                CONTRADICTION,
                f"`{path}` may be on none of the devices" + (" that compute" if disks else ""),
                at,
                also,
                help="remove one of the lines",
                about=path,
                fixes=line_removed(last.span, *(each.span for each in others)),
            )
            return


def _ties_apart(tree: ModuleTree, units: Sequence[Unit], owners: Sequence[int]) -> Iterator[Diagnostic]:
    first: dict[int, int] = {}
    seen: set[tuple[int, int]] = set()
    for tensor, storage in enumerate(tree.storages):
        if owners[tensor] < 0:
            continue
        other = first.setdefault(storage, tensor)
        pair = (owners[other], owners[tensor])
        if units[pair[0]].store == units[pair[1]].store or pair in seen:
            continue
        seen.add(pair)
        one, two = tree.tensor_paths[other], tree.tensor_paths[tensor]
        here, there = units[pair[1]], units[pair[0]]
        at, also = _labels((here.span, f"on {here.store}"), (there.span, f"on {there.store}"))
        yield Diagnostic(
            CONTRADICTION,
            f"`{one}` and `{two}` share storage and are placed apart",
            at,
            also,
            help=f"place both on `{there.store}`",
            about=two,
            fixes=line_written(here.span, _line(here, there.store)),
        )


def _members_apart(
    tree: ModuleTree, rule: Together, units: Sequence[Unit], owners: Sequence[int]
) -> Iterator[Diagnostic]:
    paths = [path for pattern in rule.patterns for path in match_paths(tree, pattern)]
    covered = (tensor for path in paths for tensor in tree.covered(path))
    first, *others = dict.fromkeys(owner for tensor in covered if (owner := owners[tensor]) >= 0) or [-1]
    for owner in others:
        one, two = units[first], units[owner]
        if one.store == two.store:
            continue
        at, also = _labels(
            (two.span, f"on {two.store}"), (one.span, f"on {one.store}"), (rule.span, "together")
        )
        message = f"`{_shown(one.path)}` and `{_shown(two.path)}` belong together and are placed apart"
        hint = f"place both on `{one.store}`, or remove the `together` line"
        fixes = (*line_written(two.span, _line(two, one.store)), *line_removed(rule.span))
        yield Diagnostic(CONTRADICTION, message, at, also, help=hint, about=two.path, fixes=fixes)
        return


def _cannot_split(tree: ModuleTree, rule: Split, rules: Sequence[Constraint]) -> Iterator[Diagnostic]:
    found = [tree.module_index.get(path) for path in match_paths(tree, rule.pattern)]
    inner = [module for module in found if module is not None and tree.ends[module] > module + 1]
    if found and not inner:
        at, also = _labels((rule.span, "nothing to split"))
        message = f"`{_shown(rule.pattern)}` has no child modules to split into"
        hint, fixes = "remove the line, or name its parent", line_removed(rule.span)
        yield Diagnostic(SPLIT_OF_LEAF, message, at, also, help=hint, about=rule.pattern, fixes=fixes)
        return
    for other in rules:
        if not isinstance(other, Atomic):
            continue
        whole = set(atomic_modules(tree, (other,)))
        clash = next((module for module in inner if _at_or_above(tree, module) & whole), None)
        if clash is not None:
            at, also = _labels((rule.span, "split here"), (other.span, "never split here"))
            what = f"class `{other.target}`" if other.by_class else f"`{other.target}`"
            message = f"`{tree.paths[clash]}` is to be split, but {what} is never split"
            hint = "remove one of the two lines" if also else "remove the line: the model itself says so"
            path, fixes = tree.paths[clash], line_removed(rule.span, other.span)
            yield Diagnostic(CONTRADICTION, message, at, also, help=hint, about=path, fixes=fixes)
            return


def _at_or_above(tree: ModuleTree, module: int) -> set[int]:
    found = {module}
    while (module := tree.parents[module]) >= 0:
        found.add(module)
    return found


def _cut(
    tree: ModuleTree, rule: Atomic, units: Sequence[Unit], owners: Sequence[int], banned: frozenset[int]
) -> Iterator[Diagnostic]:
    """Report what an atomic module cannot be without, and what cannot be visited either."""
    for module in atomic_modules(tree, (rule,)):
        path, inside = tree.paths[module], tree.tensors(module)
        if len({_place(units, owner) for owner in owners[inside.start : inside.stop]}) < 2:
            continue
        part = next((p for p in parts_apart(tree, module, owners, units, banned) if not p.legal), None)
        if part is None:
            continue
        lines = dict.fromkeys(owners[inside.start : inside.stop])
        within = [units[owner] for owner in lines if owner >= 0 and is_within(units[owner].path, path)]
        unit = units[part.owner] if part.owner >= 0 else max(within, key=lambda each: each.path.count("."))
        others = [(each.span, "inside") for each in _one_per_line(within) if each.span != unit.span]
        at, also = _labels((unit.span, "inside"), *others, (rule.span, "never split"))
        what = f"`{path}` is a `{tree.classes[module]}`, which" if rule.by_class else _named(path)
        line = _line(unit, unit.store, path)
        yield Diagnostic(
            PIN_INSIDE_ATOMIC,
            f"{_named(unit.path)} cannot be placed alone: {what} is never split",
            at,
            also,
            notes=(f"`{part.path}` cannot be visited either: {why_not(tree, part.path)}",),
            help=f"write `{line}` in place of these lines" if others else f"write `{line}`",
            about=unit.path,
            fixes=line_written(unit.span, line, *(span for span, _ in others)),
        )
        return


def _place(units: Sequence[Unit], owner: int) -> _Place:
    return (units[owner].store, units[owner].run) if owner >= 0 else (None, None)


def _named(path: str) -> str:
    return f"`{path}`" if path else "the model"


def _one_per_line(units: Sequence[Unit]) -> list[Unit]:
    return [*{(unit.span and unit.span.start, unit.store): unit for unit in units}.values()]


def _over_budget(
    plan: Plan, tree: ModuleTree, units: Sequence[Unit], owners: Sequence[int]
) -> Iterator[Diagnostic]:
    if tree.nbytes is None:
        return
    store_of: dict[int, int] = {}
    for tensor, storage in enumerate(tree.storages):
        if owners[tensor] >= 0:
            store_of.setdefault(storage, owners[tensor])
    by_unit: dict[int, int] = {}
    for storage, owner in store_of.items():
        by_unit[owner] = by_unit.get(owner, 0) + tree.nbytes[storage]
    for device in plan.devices:
        held = [(nbytes, owner) for owner, nbytes in by_unit.items() if units[owner].store == device.name]
        kept = device.margin + sum(each.nbytes for each in plan.reserves if each.device == device.name)
        placed = sum(nbytes for nbytes, _ in held)
        if device.memory is None or placed + kept <= device.memory:
            continue
        if not held:
            yield from _kept_over_budget(plan, device, kept - device.memory)
            continue
        largest = units[max(held, key=lambda item: (item[0], -item[1]))[1]]
        over = placed + kept - device.memory
        at, also = _labels((largest.span, "the largest of them"), (device.span, "this budget"))
        yield Diagnostic(
            PINS_OVER_BUDGET,
            f"lines place {human_size(placed)} on `{device.name}`, which has {human_size(device.memory)}",
            at,
            also,
            notes=(f"{placed} bytes placed + {kept} kept free = {placed + kept} > {device.memory}",),
            help=f"move {human_size(over)} elsewhere, or give it `memory {exact_size(placed + kept)}`",
            about=device.name,
        )


def _kept_over_budget(plan: Plan, device: Device, over: int) -> Iterator[Diagnostic]:
    """Report reserves that alone exceed a budget, when a line wrote the largest of them."""
    reserves = [each for each in plan.reserves if each.device == device.name and each.span is not None]
    if device.memory is None or not reserves:
        return
    largest = max(reserves, key=lambda each: each.nbytes)
    at, also = _labels((largest.span, "more than there is"), (device.span, "this budget"))
    kept = device.memory + over
    yield Diagnostic(
        PINS_OVER_BUDGET,
        f"lines keep {human_size(kept)} free on `{device.name}`, which has {human_size(device.memory)}",
        at,
        also,
        help=f"reserve {human_size(over)} less, or give it `memory {exact_size(kept)}`",
        about=device.name,
    )

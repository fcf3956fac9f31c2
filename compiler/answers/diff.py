"""What differs between two plans: what moved, and what changed of devices, rules, options, ledgers.

Places are compared tensor by tensor, so plans that cut a model differently but put every tensor in
the same place do not differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from ...grammar.path_sets import fold_set
from ...ir import (
    Atomic,
    Constraint,
    Device,
    ModuleTree,
    Never,
    Plan,
    Split,
    Unit,
    exact_size,
    human_size,
    unit_of_tensors,
)
from ...ir.purposes import LEDGER_LINES


@dataclass(frozen=True, slots=True)
class WrittenPlace:
    """Where something is: None on both sides of a unit that has no place."""

    store: str | None = None
    run: str | None = None
    by_rows: bool = False

    def __str__(self) -> str:
        if self.store is None:
            return "nowhere"
        rows = " by rows" if self.by_rows else ""
        return self.store if self.run in {self.store, None} else f"{self.store} run on {self.run}{rows}"


def _place(unit: Unit) -> WrittenPlace:
    return WrittenPlace(unit.store, unit.run, unit.by_rows)


@dataclass(frozen=True, slots=True)
class Move:
    """One module or tensor that is elsewhere as a whole."""

    path: str
    before: WrittenPlace
    after: WrittenPlace
    nbytes: int | None = None
    """What moved, in bytes; None when neither plan has sizes."""


@dataclass(frozen=True, slots=True)
class NamedChange:
    """One named thing that changed; None where it was or is not there. Ledger lines are in bytes."""

    name: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class PlanDiff:
    """Everything in which two plans differ; empty when they put everything in the same place."""

    model: tuple[NamedChange, ...] = ()
    devices: tuple[NamedChange, ...] = ()
    options: tuple[NamedChange, ...] = ()
    rules: tuple[NamedChange, ...] = ()
    tensors: tuple[NamedChange, ...] = ()
    """Tensors that only one of the models has, or with another shape or dtype."""
    moves: tuple[Move, ...] = ()
    ledger: tuple[NamedChange, ...] = ()

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) for field in fields(self))


def diff_plans(before: Plan, after: Plan) -> PlanDiff:
    """Compare two plans; a plan without a module table is read with the other's."""
    tree = after.tree or before.tree
    return PlanDiff(
        model=_changes(_model_facts(before), _model_facts(after)),
        devices=_changes(_device_facts(before), _device_facts(after)),
        options=_changes(dict(before.options), dict(after.options)),
        rules=_changes(dict.fromkeys(_rules(before), ""), dict.fromkeys(_rules(after), "")),
        tensors=_changes(_tensor_facts(before.tree), _tensor_facts(after.tree))
        if before.tree and after.tree and before.tree is not after.tree
        else (),
        moves=_moves_in_tree(before, after, tree) if tree is not None else _moves_of_units(before, after),
        ledger=_changes(_ledger_facts(before), _ledger_facts(after))
        if before.ledger and after.ledger
        else (),
    )


def _changes(before: dict[str, str], after: dict[str, str]) -> tuple[NamedChange, ...]:
    names = dict.fromkeys([*before, *after])
    return tuple(
        NamedChange(name, before.get(name), after.get(name))
        for name in names
        if before.get(name) != after.get(name)
    )


def _model_facts(plan: Plan) -> dict[str, str]:
    facts = {"name": plan.model.name}
    return facts if plan.model.digest is None else {**facts, "digest": plan.model.digest}


def _device_facts(plan: Plan) -> dict[str, str]:
    return {device.name: _describe(device) for device in plan.devices}


def _describe(device: Device) -> str:
    parts = ["no limit" if device.memory is None else exact_size(device.memory)]
    parts += [f"margin {exact_size(device.margin)}"] if device.margin else []
    parts += [f"pool {device.pool}"] if device.pool else []
    parts += [f"of {exact_size(device.pool_memory)}"] if device.pool_memory is not None else []
    parts += [f"at {device.at}"] if device.at else []
    for name in ("bandwidth", "few", "link", "latency", "launch", "flops"):
        speed = getattr(device, name)
        parts += [f"{name} {speed}"] if speed is not None else []
    parts += [f"flops {dtype} {flops}" for dtype, flops in device.dtype_flops]
    return ", ".join(parts)


def _rules(plan: Plan) -> Iterable[str]:
    yield from map(_rule, plan.constraints)
    for tie in plan.ties:
        yield f"tie {' = '.join(tie.tensors)}"
    for reserve in plan.reserves:
        yield f'reserve {exact_size(reserve.nbytes)} on {reserve.device} for "{reserve.purpose}"'
    for cache in plan.caches:
        yield f"cache {exact_size(cache.nbytes)} of {' '.join(cache.patterns)} on {cache.device}"
    for link in plan.links:
        latency = "" if link.latency is None else f" latency {link.latency}"
        yield f"link {link.a} {link.b} rate {link.rate}{latency}"
    if plan.workload is not None:
        load = plan.workload
        yield f"workload {load.kind} rows {load.rows} prompt {load.prompt} tokens {load.tokens}"
    for demand in plan.demands:
        yield f'demand {exact_size(demand.nbytes)} at {demand.path or "the root"} for "{demand.purpose}"'
    for work in plan.work:
        tokens = f" for {work.tokens} tokens" if work.tokens else ""
        launches = f" in {work.launches} launches" if work.launches else ""
        yield f"work {work.flops} at {work.path or 'the root'}{tokens}{launches}"


def _rule(constraint: Constraint) -> str:
    match constraint:
        case Atomic(target, by_class):
            return f"atomic {'class ' if by_class else ''}{target}"
        case Split(pattern):
            return f"split {pattern}"
        case Never(pattern, device):
            return f"never {pattern} on {device}"
        case _:
            return f"together {' '.join(constraint.patterns)}"


def _tensor_facts(tree: ModuleTree) -> dict[str, str]:
    rows = zip(tree.tensor_paths, tree.dtypes, tree.shapes, strict=True)
    return {path: f"{dtype}{list(shape)}" for path, dtype, shape in rows}


def _ledger_facts(plan: Plan) -> dict[str, str]:
    return {
        f"{account.device} {line.replace('_', ' ')}": str(nbytes)
        for account in plan.ledger
        for line in (*LEDGER_LINES, "total")
        if (nbytes := getattr(account, line)) or line == "total"
    }


def _places(tree: ModuleTree, units: Sequence[Unit]) -> list[WrittenPlace]:
    places = [*map(_place, units), WrittenPlace()]
    return [places[owner] for owner in unit_of_tensors(tree, units)]


def _moves_in_tree(before: Plan, after: Plan, tree: ModuleTree) -> tuple[Move, ...]:
    """Return the largest modules that moved as a whole from one place to one other."""
    old, new = _places(tree, before.units), _places(tree, after.units)
    if before.tree and after.tree and before.tree.tensor_paths != tree.tensor_paths:
        known = before.tree.tensor_index
        old = [
            was if path in known else is_ for path, was, is_ in zip(tree.tensor_paths, old, new, strict=True)
        ]
    ids: dict[tuple[WrittenPlace, WrittenPlace], int] = {}
    moved = [
        ids.setdefault(pair, len(ids)) if pair[0] != pair[1] else -1 for pair in zip(old, new, strict=True)
    ]
    found: list[Move] = []
    module = 0
    while module < len(tree):
        span = tree.tensors(module)
        kinds = set(moved[span.start : span.stop])
        if len(kinds) > 1:
            found += [
                Move(tree.tensor_paths[i], old[i], new[i], None if tree.nbytes is None else tree.nbytes[i])
                for i in tree.own_tensors(module)
                if moved[i] >= 0
            ]
            module += 1
            continue
        if kinds - {-1}:
            size = None if tree.nbytes is None else tree.subtree_bytes(module)
            found.append(Move(tree.paths[module], old[span.start], new[span.start], size))
        module = tree.ends[module]
    return tuple(found)


def _moves_of_units(before: Plan, after: Plan) -> tuple[Move, ...]:
    """Compare units by path where no model is at hand: each with the nearest unit above it."""
    old = {unit.path: _place(unit) for unit in before.units}
    new = {unit.path: _place(unit) for unit in after.units}
    rows = ((path, _nearest(old, path), _nearest(new, path)) for path in dict.fromkeys([*old, *new]))
    return tuple(Move(path, was, is_) for path, was, is_ in rows if was != is_)


def _nearest(places: dict[str, WrittenPlace], path: str) -> WrittenPlace:
    while path and path not in places:
        path = path.rpartition(".")[0]
    return places.get(path, WrittenPlace())


def diff_text(diff: PlanDiff) -> str:
    """Write a difference for people, one fact per line; regular stacks are ranges."""
    if not diff:
        return "the plans are equal\n"
    lines: list[str] = []
    sections = (
        ("model", diff.model), ("device", diff.devices), ("option", diff.options), ("rule", diff.rules)
    )  # fmt: skip
    for title, changes in sections:
        lines += [_line(title, change) for change in changes]
    lines += _tensor_lines(diff.tensors)
    lines += _move_lines(diff.moves)
    lines += [_ledger_line(change) for change in diff.ledger]
    return "\n".join(lines) + "\n"


def _line(title: str, change: NamedChange) -> str:
    if change.before is None:
        return f"+ {title} {change.name} {change.after}".rstrip()
    if change.after is None:
        return f"- {title} {change.name} {change.before}".rstrip()
    return f"~ {title} {change.name}: {change.before} -> {change.after}"


def _tensor_lines(changes: tuple[NamedChange, ...]) -> list[str]:
    groups: dict[tuple[str | None, str | None], list[str]] = {}
    for change in changes:
        groups.setdefault((change.before, change.after), []).append(change.name)
    return [
        _line("tensor", NamedChange(folded.text, before, after))
        for (before, after), names in groups.items()
        for folded in fold_set(names)
    ]


def _move_lines(moves: tuple[Move, ...]) -> list[str]:
    groups: dict[tuple[WrittenPlace, WrittenPlace, int | None], list[str]] = {}
    for move in moves:
        groups.setdefault((move.before, move.after, move.nbytes), []).append(move.path)
    lines = []
    for (before, after, nbytes), paths in groups.items():
        for folded in fold_set(paths):
            times = f"{folded.count} x " if folded.count > 1 else ""
            size = "" if nbytes is None else f"  # {times}{human_size(nbytes)}"
            lines.append(f"~ place {folded.text}: {before} -> {after}{size}")
    known = [move.nbytes for move in moves if move.nbytes is not None]
    return [*lines, f"  {human_size(sum(known))} moved"] if known else lines


def _ledger_line(change: NamedChange) -> str:
    before, after = int(change.before or 0), int(change.after or 0)
    sign = "+" if after > before else ""
    delta = f"{sign}{human_size(after - before)}"
    return f"~ ledger {change.name}: {human_size(before)} -> {human_size(after)} ({delta})"

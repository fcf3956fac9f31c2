"""A plan as tables and back: one table per kind of node, one column per field.

Writing and reading a table stand side by side and list the fields in the same order. Spans are not
stored: a plan file was not written by hand.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..ir import (
    STREAMING,
    Atomic,
    Constraint,
    Demand,
    Device,
    Model,
    Never,
    Plan,
    Reason,
    Reserve,
    Split,
    TieGroup,
    Together,
    Unit,
    Work,
)
from . import account_tables, tree_tables
from .columns import MalformedError, Reader, Table, Writer, from_optional, grouped, pack_column, to_optional

_SIZES = ("memory", "margin", "pool_memory", "bandwidth", "link", "flops")
TABLES = {
    "model": ("name", "digest"),
    "options": ("key", "value"),
    "devices": ("name", "pool", "at", "origin", *_SIZES),
    "constraints": ("kind", "targets", "device"),
    "constraint_targets": ("path",),
    "ties": ("tensors",),
    "tie_tensors": ("path",),
    "reserves": ("nbytes", "device", "purpose"),
    "demands": ("nbytes", "path", "purpose"),
    "work": ("flops", "path", "tokens"),
    "units": ("path", "store", "run", "reason"),
    **tree_tables.TABLES,
    **account_tables.TABLES,
    "strings": ("size", "text"),
    "paths": ("parent", "name"),
}
"""The columns of each table, in the order in which they are written."""

_ATOMIC, _ATOMIC_CLASS, _SPLIT, _NEVER, _TOGETHER = range(5)


def to_tables(plan: Plan) -> dict[str, Table]:
    """Return the tables of a plan."""
    writer = Writer()
    numbers: list[Sequence[int]] = [
        *_write_head(plan, writer),
        *_write_rules(plan, writer),
        *_write_needs(plan, writer),
    ]
    tail = [
        *account_tables.write_ledger(plan, writer),
        *account_tables.write_outcome(plan, writer),
        *account_tables.write_diagnostics(plan, writer),
    ]
    trees = tree_tables.write_tree(plan.tree, writer)
    columns = iter([pack_column(column) for column in (*numbers, *tail)])
    ready = trees | writer.tables()
    return {
        name: ready[name] if name in ready else {column: next(columns) for column in names}
        for name, names in TABLES.items()
    }


def from_tables(tables: dict[str, Table]) -> Plan:
    """Return the plan of checked-for-shape tables; raises `MalformedError` for anything that cannot be."""
    reader = Reader(tables)
    model, options, devices = _read_head(reader)
    reserves, demands, work, units = _read_needs(reader)
    constraints, ties = _read_rules(reader)
    return Plan(
        model=model,
        devices=devices,
        options=options,
        constraints=constraints,
        ties=ties,
        reserves=reserves,
        demands=demands,
        work=work,
        units=units,
        tree=tree_tables.read_tree(reader),
        ledger=account_tables.read_ledger(reader),
        outcome=account_tables.read_outcome(reader),
        diagnostics=account_tables.read_diagnostics(reader),
    )


def _write_head(plan: Plan, writer: Writer) -> list[list[int]]:
    devices = plan.devices
    return [
        writer.strings([plan.model.name]),
        writer.optional_strings([plan.model.digest]),
        writer.strings(key for key, _ in plan.options),
        writer.strings(value for _, value in plan.options),
        writer.strings(device.name for device in devices),
        writer.optional_strings(device.pool for device in devices),
        writer.optional_strings(device.at for device in devices),
        writer.strings(device.origin for device in devices),
        *(from_optional(getattr(device, size) for device in devices) for size in _SIZES),
    ]


def _read_head(reader: Reader) -> tuple[Model, tuple[tuple[str, str], ...], tuple[Device, ...]]:
    names, digests = reader.rows("model", *TABLES["model"])
    if len(names) != 1:
        raise MalformedError("table `model` must have one row")
    keys, values = reader.rows("options", *TABLES["options"])
    name, pool, at, origin, *sizes = reader.rows("devices", *TABLES["devices"])
    rows = zip(
        reader.devices(name),
        reader.optional_strings(pool),
        reader.optional_strings(at),
        reader.strings(origin),
        *map(to_optional, sizes),
        strict=True,
    )
    devices = tuple(
        Device(name, memory, margin or 0, pool, pool_memory, at, bandwidth, link, flops, origin)
        for name, pool, at, origin, memory, margin, pool_memory, bandwidth, link, flops in rows
    )
    model = Model(reader.strings(names)[0], reader.optional_strings(digests)[0])
    return model, tuple(zip(reader.strings(keys), reader.strings(values), strict=True)), devices


def _write_rules(plan: Plan, writer: Writer) -> list[list[int]]:
    parts = [_parts(constraint) for constraint in plan.constraints]
    return [
        [kind for kind, _, _ in parts],
        [len(targets) for _, targets, _ in parts],
        writer.optional_strings(device for _, _, device in parts),
        writer.paths(target for _, targets, _ in parts for target in targets),
        [len(tie.tensors) for tie in plan.ties],
        writer.paths(path for tie in plan.ties for path in tie.tensors),
    ]


def _parts(constraint: Constraint) -> tuple[int, tuple[str, ...], str | None]:
    match constraint:
        case Atomic(target, by_class):
            return (_ATOMIC_CLASS if by_class else _ATOMIC), (target,), None
        case Split(pattern):
            return _SPLIT, (pattern,), None
        case Never(pattern, device):
            return _NEVER, (pattern,), device
        case Together(patterns):
            return _TOGETHER, patterns, None


def _constraint(kind: int, targets: tuple[str, ...], device: str | None) -> Constraint:
    match kind, targets, device:
        case ((0 | 1), (target,), None):
            return Atomic(target, by_class=kind == _ATOMIC_CLASS)
        case 2, (pattern,), None:
            return Split(pattern)
        case 3, (pattern,), str(name):
            return Never(pattern, name)
        case 4, patterns, None:
            return Together(patterns)
    raise MalformedError("a constraint is none of those of this version")


def _read_rules(reader: Reader) -> tuple[tuple[Constraint, ...], tuple[TieGroup, ...]]:
    kinds, counts, devices = reader.rows("constraints", *TABLES["constraints"])
    targets = grouped(reader.paths(*reader.rows("constraint_targets", "path")), counts, "constraints")
    named = reader.optional_devices(devices, beside=STREAMING)
    constraints = tuple(map(_constraint, kinds, targets, named))
    (sizes,) = reader.rows("ties", *TABLES["ties"])
    members = grouped(reader.paths(*reader.rows("tie_tensors", "path")), sizes, "ties")
    return constraints, tuple(TieGroup(tensors) for tensors in members)


def _write_needs(plan: Plan, writer: Writer) -> list[list[int]]:
    units = plan.units
    return [
        [reserve.nbytes for reserve in plan.reserves],
        writer.strings(reserve.device for reserve in plan.reserves),
        writer.strings(reserve.purpose for reserve in plan.reserves),
        [demand.nbytes for demand in plan.demands],
        writer.paths(demand.path for demand in plan.demands),
        writer.strings(demand.purpose for demand in plan.demands),
        [each.flops for each in plan.work],
        writer.paths(each.path for each in plan.work),
        [each.tokens for each in plan.work],
        writer.paths(unit.path for unit in units),
        writer.optional_strings(unit.store for unit in units),
        writer.optional_strings(unit.run for unit in units),
        writer.optional_strings(unit.reason for unit in units),
    ]


def _read_needs(
    reader: Reader,
) -> tuple[tuple[Reserve, ...], tuple[Demand, ...], tuple[Work, ...], tuple[Unit, ...]]:
    nbytes, devices, purposes = reader.rows("reserves", *TABLES["reserves"])
    reserves = map(Reserve, nbytes, reader.devices(devices), reader.strings(purposes))
    needs, at, why = reader.rows("demands", *TABLES["demands"])
    demands = map(Demand, needs, reader.paths(at), reader.strings(why))
    flops, where, tokens = reader.rows("work", *TABLES["work"])
    work = map(Work, flops, reader.paths(where), tokens)
    paths, stores, runs, reasons = reader.rows("units", *TABLES["units"])
    units = map(
        Unit,
        reader.paths(paths),
        reader.optional_devices(stores),
        reader.optional_devices(runs),
        [None if text is None else _reason(text) for text in reader.optional_strings(reasons)],
    )
    return tuple(reserves), tuple(demands), tuple(work), tuple(units)


def _reason(text: str) -> Reason:
    try:
        return Reason(text)
    except ValueError:
        raise MalformedError("a unit has a reason this version does not know") from None

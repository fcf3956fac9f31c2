"""A plan as tables and back: one table per kind of node, one column per field.

Writing and reading a table stand side by side and list the fields in the same order. Spans are not
stored: a plan file was not written by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..ir import (
    WAYS,
    WORKLOADS,
    Atomic,
    Cache,
    Constraint,
    Demand,
    Device,
    Link,
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
    Workload,
    is_device_name,
    is_host_name,
)
from . import account_tables, tree_tables
from .columns import MalformedError, Reader, Table, Writer, from_optional, grouped, pack_column, to_optional

_SIZES = ("memory", "margin", "pool_memory", "bandwidth", "link", "flops", "latency")
TABLES = {
    "model": ("name", "digest"),
    "options": ("key", "value"),
    "devices": ("name", "pool", "at", "origin", "measured", *_SIZES, "dtypes"),
    "device_flops": ("dtype", "flops"),
    "links": ("a", "b", "rate", "latency"),
    "workload": ("kind", "rows", "prompt", "tokens", "added"),
    "constraints": ("kind", "targets", "device", "added"),
    "constraint_targets": ("path",),
    "ties": ("tensors",),
    "tie_tensors": ("path",),
    "reserves": ("nbytes", "device", "purpose", "added"),
    "caches": ("nbytes", "device", "patterns", "added"),
    "cache_patterns": ("path",),
    "demands": ("nbytes", "path", "purpose", "added"),
    "work": ("flops", "path", "tokens"),
    "units": ("path", "store", "run", "reason", "rows"),
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
        *_write_use(plan, writer),
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
    links, workload = _read_use(reader)
    caches = _read_caches(reader)
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
        links=links,
        workload=workload,
        caches=caches,
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
        writer.strings(device.measured for device in devices),
        *(from_optional(getattr(device, size) for device in devices) for size in _SIZES),
        [len(device.dtype_flops) for device in devices],
        writer.strings(dtype for device in devices for dtype, _ in device.dtype_flops),
        [flops for device in devices for _, flops in device.dtype_flops],
    ]


def _read_head(reader: Reader) -> tuple[Model, tuple[tuple[str, str], ...], tuple[Device, ...]]:
    names, digests = reader.rows("model", *TABLES["model"])
    if len(names) != 1:
        raise MalformedError("table `model` must have one row")
    keys, values = reader.rows("options", *TABLES["options"])
    name, pool, at, origin, measured, *sizes, counts = reader.rows("devices", *TABLES["devices"])
    dtypes, flops = reader.rows("device_flops", *TABLES["device_flops"])
    rows = zip(
        reader.devices(name),
        reader.optional_strings(pool),
        reader.optional_strings(at),
        reader.strings(origin),
        reader.strings(measured),
        zip(*map(to_optional, sizes), strict=True),
        grouped([*zip(reader.strings(dtypes), flops, strict=True)], counts, "device_flops"),
        strict=True,
    )
    devices = tuple(
        Device(
            name,
            pool=pool,
            at=at,
            origin=origin,
            measured=measured,
            dtype_flops=dtype_flops,
            **_sizes_of(values),
        )
        for name, pool, at, origin, measured, values, dtype_flops in rows
    )
    model = Model(reader.strings(names)[0], reader.optional_strings(digests)[0])
    return model, tuple(zip(reader.strings(keys), reader.strings(values), strict=True)), devices


def _sizes_of(values: Sequence[int | None]) -> dict[str, Any]:
    """Return the numbers of a device by their fields; a margin is 0 where none is said."""
    sizes: dict[str, Any] = dict(zip(_SIZES, values, strict=True))
    return sizes | {"margin": sizes["margin"] or 0}


def _write_use(plan: Plan, writer: Writer) -> list[list[int]]:
    loads = () if plan.workload is None else (plan.workload,)
    return [
        writer.strings(link.a for link in plan.links),
        writer.strings(link.b for link in plan.links),
        [link.rate for link in plan.links],
        from_optional(link.latency for link in plan.links),
        [WORKLOADS.index(load.kind) for load in loads],
        [load.rows for load in loads],
        [load.prompt for load in loads],
        [load.tokens for load in loads],
        [int(load.added) for load in loads],
    ]


def _read_use(reader: Reader) -> tuple[tuple[Link, ...], Workload | None]:
    a, b, rates, latencies = reader.rows("links", *TABLES["links"])
    links = map(Link, _ends(reader, a), _ends(reader, b), rates, to_optional(latencies))
    kinds, rows, prompts, tokens, added = reader.rows("workload", *TABLES["workload"])
    if len(kinds) > 1 or max(kinds, default=0) >= len(WORKLOADS) or min(rows, default=1) < 1:
        raise MalformedError("table `workload` has a kind or rows no workload has")
    loads = map(Workload, (WORKLOADS[kind] for kind in kinds), rows, prompts, tokens, reader.flags(added))
    return tuple(links), next(loads, None)


def _ends(reader: Reader, rows: list[int]) -> list[str]:
    names = reader.strings(rows)
    if not all(is_device_name(name) or is_host_name(name) for name in names):
        raise MalformedError("a link ends at what is neither a device nor a host")
    return names


def _read_caches(reader: Reader) -> tuple[Cache, ...]:
    nbytes, devices, counts, added = reader.rows("caches", *TABLES["caches"])
    patterns = grouped(reader.paths(*reader.rows("cache_patterns", "path")), counts, "caches")
    return tuple(map(Cache, nbytes, patterns, reader.devices(devices), reader.flags(added)))


def _write_rules(plan: Plan, writer: Writer) -> list[list[int]]:
    parts = [_parts(constraint) for constraint in plan.constraints]
    return [
        [kind for kind, _, _ in parts],
        [len(targets) for _, targets, _ in parts],
        writer.optional_strings(device for _, _, device in parts),
        [int(constraint.added) for constraint in plan.constraints],
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


def _constraint(kind: int, targets: tuple[str, ...], device: str | None, *, added: bool) -> Constraint:
    match kind, targets, device:
        case ((0 | 1), (target,), None):
            return Atomic(target, by_class=kind == _ATOMIC_CLASS, added=added)
        case 2, (pattern,), None:
            return Split(pattern, added=added)
        case 3, (pattern,), str(name):
            return Never(pattern, name, added=added)
        case 4, patterns, None:
            return Together(patterns, added=added)
    raise MalformedError("a constraint is none of those of this version")


def _read_rules(reader: Reader) -> tuple[tuple[Constraint, ...], tuple[TieGroup, ...]]:
    kinds, counts, devices, added = reader.rows("constraints", *TABLES["constraints"])
    targets = grouped(reader.paths(*reader.rows("constraint_targets", "path")), counts, "constraints")
    named = reader.optional_devices(devices, beside=WAYS)
    rows = zip(kinds, targets, named, reader.flags(added), strict=True)
    constraints = tuple(_constraint(kind, each, device, added=mark) for kind, each, device, mark in rows)
    (sizes,) = reader.rows("ties", *TABLES["ties"])
    members = grouped(reader.paths(*reader.rows("tie_tensors", "path")), sizes, "ties")
    return constraints, tuple(TieGroup(tensors) for tensors in members)


def _write_needs(plan: Plan, writer: Writer) -> list[list[int]]:
    units = plan.units
    return [
        [reserve.nbytes for reserve in plan.reserves],
        writer.strings(reserve.device for reserve in plan.reserves),
        writer.strings(reserve.purpose for reserve in plan.reserves),
        [int(reserve.added) for reserve in plan.reserves],
        [cache.nbytes for cache in plan.caches],
        writer.strings(cache.device for cache in plan.caches),
        [len(cache.patterns) for cache in plan.caches],
        [int(cache.added) for cache in plan.caches],
        writer.paths(pattern for cache in plan.caches for pattern in cache.patterns),
        [demand.nbytes for demand in plan.demands],
        writer.paths(demand.path for demand in plan.demands),
        writer.strings(demand.purpose for demand in plan.demands),
        [int(demand.added) for demand in plan.demands],
        [each.flops for each in plan.work],
        writer.paths(each.path for each in plan.work),
        [each.tokens for each in plan.work],
        writer.paths(unit.path for unit in units),
        writer.optional_strings(unit.store for unit in units),
        writer.optional_strings(unit.run for unit in units),
        writer.optional_strings(unit.reason for unit in units),
        [int(unit.by_rows) for unit in units],
    ]


def _read_needs(
    reader: Reader,
) -> tuple[tuple[Reserve, ...], tuple[Demand, ...], tuple[Work, ...], tuple[Unit, ...]]:
    nbytes, devices, purposes, added = reader.rows("reserves", *TABLES["reserves"])
    reserves = map(Reserve, nbytes, reader.devices(devices), reader.strings(purposes), reader.flags(added))
    needs, at, why, found = reader.rows("demands", *TABLES["demands"])
    demands = map(Demand, needs, reader.paths(at), reader.strings(why), reader.flags(found))
    flops, where, tokens = reader.rows("work", *TABLES["work"])
    work = map(Work, flops, reader.paths(where), tokens)
    paths, stores, runs, reasons, by_rows = reader.rows("units", *TABLES["units"])
    units = map(
        Unit,
        reader.paths(paths),
        reader.optional_devices(stores),
        reader.optional_devices(runs),
        [None if text is None else _reason(text) for text in reader.optional_strings(reasons)],
        reader.flags(by_rows),
    )
    return tuple(reserves), tuple(demands), tuple(work), tuple(units)


def _reason(text: str) -> Reason:
    try:
        return Reason(text)
    except ValueError:
        raise MalformedError("a unit has a reason this version does not know") from None

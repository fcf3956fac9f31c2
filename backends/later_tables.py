"""Tables that came later, written only where they have rows: other files are the bytes they always were.

Each numbers rows of an earlier table and gives them one more field.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from ..ir import Plan
from .columns import MalformedError, Reader, Table, pack_column

LATER: Final = {"device_launches": ("device", "nanoseconds"), "work_launches": ("work", "count")}
"""The columns of each table, in the order in which they are written, after all others."""


def write_later(plan: Plan) -> dict[str, Table]:
    """Return those tables that have rows."""
    given: dict[str, Sequence[int | None]] = {
        "device_launches": [device.launch for device in plan.devices],
        "work_launches": [work.launches or None for work in plan.work],
    }
    found: dict[str, Table] = {}
    for name, (row, field) in LATER.items():
        values = {at: value for at, value in enumerate(given[name]) if value is not None}
        if values:
            found[name] = {row: pack_column([*values]), field: pack_column([*values.values()])}
    return found


def with_later(plan: Plan, reader: Reader, tables: frozenset[str]) -> Plan:
    """Return a plan with what the tables that are there add to it."""
    devices, work = list(plan.devices), list(plan.work)
    if "device_launches" in tables:
        for at, launch in _rows(reader, "device_launches", len(devices)):
            devices[at] = replace(devices[at], launch=launch)
    if "work_launches" in tables:
        for at, launches in _rows(reader, "work_launches", len(work)):
            work[at] = replace(work[at], launches=launches)
    return replace(plan, devices=tuple(devices), work=tuple(work))


def _rows(reader: Reader, name: str, count: int) -> list[tuple[int, int]]:
    rows, values = reader.rows(name, *LATER[name])
    if rows != sorted(set(rows)) or max(rows, default=count) >= count:
        raise MalformedError(f"table `{name}` is empty, or names rows twice or that are not there")
    return list(zip(rows, values, strict=True))

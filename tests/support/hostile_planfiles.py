"""Small plan files with correct checksums that ask for much more than they are worth."""

from __future__ import annotations

import hashlib

import msgpack
from compile_plan.backends.columns import Table, Writer, pack_column
from compile_plan.backends.plan_tables import TABLES

ROWS = 40_000
ZEROS = b"\x01" + bytes(ROWS)
ONES = b"\x01" + b"\x01" * ROWS
TWOS = b"\x01" + b"\x02" * ROWS
ONE_ZERO = pack_column((0,))

EXPECTED = {
    "arrays in arrays": "not-a-plan-file",
    "arrays in the body": "it is not msgpack",
    "maps in maps": "it is not msgpack",
    "a chain of modules": "paths of more than",
    "a long name above many": "paths of more than",
    "a path table as a chain": "paths of more than",
    "one device many times": "duplicate-device",
    "many devices twice": "duplicate-device",
    "the root many times": "lawful",
    "strings of nothing": "lawful",
}
"""What reading and checking each of them must say."""


def file_of(tables: dict[str, Table]) -> bytes:
    """Write any tables as a plan file; columns in the order the format wants."""
    ordered = {name: {c: columns[c] for c in TABLES[name]} for name, columns in tables.items()}
    return file_of_body(msgpack.packb(ordered))


def file_of_body(body: bytes) -> bytes:
    """Write any bytes as the body of a plan file, the checksum right."""
    checksum = hashlib.sha256(body).digest()
    return msgpack.packb({"format": "compile-plan", "version": 1, "checksum": checksum, "body": body})


def hostile_file(name: str) -> bytes:
    """Make one of the files of `EXPECTED`."""
    match name:
        case "arrays in arrays":
            return b"\xdd\xff\xff\xff\xff" * 900
        case "arrays in the body":
            return file_of_body(b"\x81\xa1a" + b"\xdd\x00\xff\xff\xff" * 900)
        case "maps in maps":
            return file_of_body(b"\x81\xa1a" * 100_000)
        case _:
            return file_of(_empty() | _tables(name))


def _tables(name: str) -> dict[str, Table]:  # noqa: PLR0911 - a table of cases
    tree = {"tree": dict.fromkeys(TABLES["tree"], ONE_ZERO)}
    modules = {"name": ZEROS, "class": ZEROS, "tensors": ZEROS}
    match name:
        case "a chain of modules":
            return tree | {"modules": {**modules, "up": b"\x01\x00" + b"\x01" * (ROWS - 1)}}
        case "a long name above many":
            distances = pack_column([0, 1, *range(1, ROWS - 1)])
            names = b"\x01\x00\x02" + bytes(ROWS - 2)
            long = {"size": pack_column((0, 3, 60_000)), "text": b"cpu" + b"x" * 60_000}
            return tree | {"strings": long, "modules": {**modules, "name": names, "up": distances}}
        case "a path table as a chain":
            return {"paths": {"parent": pack_column(range(ROWS)), "name": ZEROS}}
        case "one device many times":
            return {"devices": {**dict.fromkeys(TABLES["devices"], ZEROS), "name": ONES}}
        case "many devices twice":
            names = [*(f"cuda:{i}" for i in range(ROWS // 2))] * 2
            writer = Writer()
            rows = pack_column(writer.strings(["", *names])[1:])
            strings = writer.tables()["strings"]
            return {"strings": strings, "devices": {**dict.fromkeys(TABLES["devices"], ZEROS), "name": rows}}
        case "the root many times":
            one = {"name": ONE_ZERO, "class": ONE_ZERO, "up": ONE_ZERO, "tensors": pack_column((ROWS,))}
            device = {**dict.fromkeys(TABLES["devices"], ONE_ZERO), "name": pack_column((1,))}
            return tree | {
                "devices": device,
                "paths": {"parent": ONE_ZERO, "name": ONE_ZERO},
                "units": {"path": ZEROS, "store": TWOS, "run": TWOS, "reason": ZEROS, "rows": ZEROS},
                "modules": one,
                "tensors": {"name": ZEROS, "kind": ZEROS},
                "kinds": dict.fromkeys(TABLES["kinds"], ONE_ZERO),
            }
        case _:
            return {"strings": {"size": ZEROS, "text": b""}}


def _empty() -> dict[str, Table]:
    writer = Writer()
    writer.strings(["", "cpu"])
    tables = {name: dict.fromkeys(columns, pack_column(())) for name, columns in TABLES.items()}
    return tables | {"model": {"name": ONE_ZERO, "digest": ONE_ZERO}, "strings": writer.tables()["strings"]}

"""Nodes to tables and back: a table is one `Rows`, a column one row of it, for both directions.

A column says which field it holds and of which kind; the kind writes values as numbers, reads them back, and
refuses numbers no value has.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final, Generic, TypeAlias, TypeVar

from ..ir import WAYS, is_device_name, is_host_name
from .columns import MAX_NUMBER, MalformedError, Reader, Table, Writer, grouped, pack_column

_Node = TypeVar("_Node")
_Values: TypeAlias = Sequence[Any]


@dataclass(frozen=True, slots=True)
class WireKind:
    """How values of a column become numbers, and numbers values."""

    write: Callable[[Writer, _Values], Sequence[int]]
    read: Callable[[Reader, list[int]], _Values]
    largest: int = MAX_NUMBER


@dataclass(frozen=True, slots=True)
class Column:
    """One field of a node; a tuple has a ``child`` table with these ``parts``, one row an item."""

    name: str
    kind: WireKind
    field: str = ""
    """The field of the node, where it is not called as the column."""
    child: str = ""
    parts: tuple[Column, ...] = ()


@dataclass(frozen=True, slots=True)
class Rows(Generic[_Node]):
    """One table: what a row becomes, and its columns."""

    name: str
    node: Callable[..., _Node]
    columns: tuple[Column, ...]
    most: int | None = None
    """How many rows there may be; None is any number."""

    @property
    def tables(self) -> dict[str, tuple[str, ...]]:
        """The columns of the table and of its children, as they are written."""
        children = [column for column in self.columns if column.child]
        return {
            self.name: tuple(column.name for column in self.columns),
            **{column.child: tuple(part.name for part in column.parts) for column in children},
        }

    def write(self, nodes: Sequence[_Node], writer: Writer) -> dict[str, Table]:
        """Return the tables of some nodes."""
        own: Table = {}
        found = {self.name: own}
        children: list[tuple[Column, list[Any]]] = []
        for column in self.columns:
            values = list(map(attrgetter(column.field or column.name), nodes))
            own[column.name] = pack_column(column.kind.write(writer, values))
            if column.child:
                children.append((column, [item for value in values for item in value]))
        for column, items in children:
            found[column.child] = {
                part.name: pack_column(part.kind.write(writer, _part(items, column, at)))
                for at, part in enumerate(column.parts)
            }
        return found

    def read(self, reader: Reader) -> tuple[_Node, ...]:
        """Return the nodes of a plan file."""
        numbers = reader.rows(self.name, *((column.name, column.kind.largest) for column in self.columns))
        if self.most is not None and len(numbers[0]) > self.most:
            raise MalformedError(f"table `{self.name}` must have at most {self.most} rows")
        values = [
            _children(column, rows, reader) if column.child else column.kind.read(reader, rows)
            for column, rows in zip(self.columns, numbers, strict=True)
        ]
        names = [column.field or column.name for column in self.columns]
        return tuple([self.node(**dict(zip(names, row, strict=True))) for row in zip(*values, strict=True)])


def _part(items: list[Any], column: Column, at: int) -> list[Any]:
    return items if len(column.parts) == 1 else [item[at] for item in items]


def _children(column: Column, counts: list[int], reader: Reader) -> _Values:
    rows = reader.rows(column.child, *((part.name, part.kind.largest) for part in column.parts))
    parts = [part.kind.read(reader, each) for part, each in zip(column.parts, rows, strict=True)]
    items: _Values = parts[0] if len(parts) == 1 else [*zip(*parts, strict=True)]
    return grouped(items, counts, column.child)


def _strings(writer: Writer, values: Iterable[str]) -> list[int]:
    return writer.strings(values)


def _number(bits: int) -> float:
    (number,) = struct.unpack("<d", bits.to_bytes(8, "little"))
    return float(number)


def _bits(number: float) -> int:
    return int.from_bytes(struct.pack("<d", number), "little")


def _known_number(bits: int) -> float | None:
    number = _number(bits)
    return None if math.isnan(number) else number


def _checked(names: list[str], known: Callable[[str], bool], what: str) -> list[str]:
    if not all(map(known, set(names))):
        raise MalformedError(what)
    return names


def _is_end(name: str) -> bool:
    return is_device_name(name) or is_host_name(name)


def _named(values: Iterable[str | None], known: Callable[[str], object], what: str) -> list[Any]:
    try:
        return [None if value is None else known(value) for value in values]
    except ValueError:
        raise MalformedError(what) from None


def words(known: Callable[[str], object], what: str, *, some: bool = False) -> WireKind:
    """Return the kind of words of an enumeration, perhaps none; others are refused as ``what``."""

    def write(writer: Writer, values: _Values) -> list[int]:
        return writer.optional_strings(values) if some else writer.strings(values)

    def read(reader: Reader, rows: list[int]) -> list[Any]:
        return _named(reader.optional_strings(rows) if some else reader.strings(rows), known, what)

    return WireKind(write, read)


def numbered(known: Sequence[Any], what: str) -> WireKind:
    """Return the kind of values that are stored by their place in a list."""

    def read(_: Reader, rows: list[int]) -> list[Any]:
        if max(rows, default=0) >= len(known):
            raise MalformedError(what)
        return [known[row] for row in rows]

    return WireKind(lambda _, values: [known.index(value) for value in values], read)


def _read_flags(_: Reader, rows: list[int]) -> list[bool]:
    if max(rows, default=0) > 1:
        raise MalformedError("a flag is neither 0 nor 1")
    return [row == 1 for row in rows]


def _read_counts(_: Reader, rows: list[int]) -> list[int]:
    if not all(rows):
        raise MalformedError("what is counted from 1 is 0")
    return rows


NUMBER: Final = WireKind(lambda _, values: values, lambda _, rows: rows)
COUNT: Final = WireKind(lambda _, values: values, _read_counts)
SOME: Final = WireKind(
    lambda _, values: [0 if value is None else value + 1 for value in values],
    lambda _, rows: [row - 1 if row else None for row in rows],
)
SOME_OR_0: Final = WireKind(SOME.write, lambda _, rows: [row - 1 if row else 0 for row in rows])
FLAG: Final = WireKind(lambda _, values: list(map(int, values)), _read_flags)
BITS: Final = WireKind(
    lambda _, values: list(map(_bits, values)), lambda _, rows: list(map(_number, rows)), 2**64
)
SOME_BITS: Final = WireKind(
    lambda _, values: [_bits(math.nan if value is None else value) for value in values],
    lambda _, rows: list(map(_known_number, rows)),
    2**64,
)
STRING: Final = WireKind(_strings, lambda reader, rows: reader.strings(rows))
SOME_STRING: Final = WireKind(
    lambda writer, values: writer.optional_strings(values), lambda reader, rows: reader.optional_strings(rows)
)
PATH: Final = WireKind(lambda writer, values: writer.paths(values), lambda reader, rows: reader.paths(rows))
DEVICE: Final = WireKind(_strings, lambda reader, rows: reader.devices(rows))
SOME_DEVICE: Final = WireKind(SOME_STRING.write, lambda reader, rows: reader.optional_devices(rows))
BANNED: Final = WireKind(SOME_STRING.write, lambda reader, rows: reader.optional_devices(rows, beside=WAYS))
END: Final = WireKind(
    _strings,
    lambda reader, rows: _checked(
        reader.strings(rows), _is_end, "a link ends at what is neither a device nor a host"
    ),
)
LENGTH: Final = WireKind(lambda _, values: list(map(len, values)), lambda _, rows: rows)


def many(name: str, child: str, *parts: Column, field: str = "") -> Column:
    """Return the column of a tuple field: how many of the next rows of a child table are its items."""
    return Column(name, LENGTH, field, child, parts)

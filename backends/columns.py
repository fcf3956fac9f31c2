"""The wire types of the plan file: columns of unsigned integers, a string table, a path table.

Whatever the bytes, reading them costs memory in proportion to them: a column is as long as its
bytes say, strings are stored once, and the paths that follow from a table have a total limit.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias, TypeVar

from ..ir import is_device_name

Table: TypeAlias = dict[str, bytes]
_T = TypeVar("_T")

_CODES: Final = {1: "B", 2: "H", 4: "I", 8: "Q"}
MAX_NUMBER: Final = 2**63
"""The largest size, 2**63 - 1, counted from 1."""
MAX_PATH: Final = 65_535
"""Characters of one path."""
_FREE_CHARACTERS: Final = 16 * 2**20
_CHARACTERS_PER_ROW: Final = 512


class MalformedError(Exception):
    """The bytes are no plan file; the sentence says what is wrong."""


class TooLongError(Exception):
    """Paths of a plan exceed what a plan file may hold."""


def pack_column(values: Sequence[int]) -> bytes:
    """Write unsigned integers: the width in bytes, then each in little-endian order."""
    largest = max(values, default=0)
    width = next((width for width in _CODES if largest < 256**width), 16)
    column = array(_CODES[width], values)
    if sys.byteorder == "big":
        column.byteswap()
    return bytes((width,)) + column.tobytes()


def read_column(data: bytes, name: str) -> list[int]:
    """Read what `pack_column` wrote."""
    code = _CODES.get(data[0]) if data else None
    if code is None or (len(data) - 1) % data[0]:
        raise MalformedError(f"column `{name}` is cut or has an unknown width")
    column = array(code)
    column.frombytes(data[1:])
    if sys.byteorder == "big":
        column.byteswap()
    return column.tolist()


def check_path_lengths(lengths: Iterable[int], rows: int) -> None:
    """Refuse paths that would take memory out of proportion to the table they follow from."""
    total = 0
    limit = _FREE_CHARACTERS + _CHARACTERS_PER_ROW * rows
    for length in lengths:
        total += length
        if length > MAX_PATH or total > limit:
            raise TooLongError(f"paths of more than {MAX_PATH} characters, or {limit} in all")


class Writer:
    """Collects strings and paths while tables are made; both are numbered by first use."""

    def __init__(self) -> None:
        self._strings: dict[str, int] = {}
        self._paths: dict[str, int] = {}
        self._parents: list[int] = []
        self._names: list[int] = []

    def strings(self, values: Iterable[str]) -> list[int]:
        """Return the rows of strings in the string table."""
        known = self._strings
        return [known.setdefault(value, len(known)) for value in values]

    def optional_strings(self, values: Iterable[str | None]) -> list[int]:
        """Return rows counted from 1; 0 stands for None."""
        known = self._strings
        return [0 if value is None else known.setdefault(value, len(known)) + 1 for value in values]

    def paths(self, values: Iterable[str]) -> list[int]:
        """Return the rows of paths in the path table."""
        return [self._path(value) for value in values]

    def _path(self, path: str) -> int:
        row = self._paths.get(path)
        if row is not None:
            return row
        missing = []
        while path not in self._paths:
            missing.append(path)
            above, dot, _ = path.rpartition(".")
            if not dot:
                break
            path = above
        for each in reversed(missing):
            above, dot, name = each.rpartition(".")
            self._parents.append(self._paths[above] + 1 if dot else 0)
            self._names.extend(self.strings([name]))
            self._paths[each] = len(self._paths)
        return len(self._paths) - 1

    def tables(self) -> dict[str, Table]:
        """Return the string and path tables; call it when everything else is written."""
        check_path_lengths(map(len, self._paths), len(self._paths))
        paths = {"parent": pack_column(self._parents), "name": pack_column(self._names)}
        encoded = [text.encode("utf-8", "surrogatepass") for text in self._strings]
        return {
            "strings": {"size": pack_column([len(text) for text in encoded]), "text": b"".join(encoded)},
            "paths": paths,
        }


class Reader:
    """Gives the columns of tables as values; every number is checked before it is used."""

    def __init__(self, tables: dict[str, Table]) -> None:
        self._tables = tables
        self._strings = self._read_strings()
        self._paths = self._read_paths()

    def _column(self, table: str, column: str, largest: int = MAX_NUMBER) -> list[int]:
        numbers = read_column(self._tables[table][column], f"{table}.{column}")
        if max(numbers, default=0) > largest:
            raise MalformedError(f"column `{table}.{column}` has a number above {largest}")
        return numbers

    def rows(self, table: str, *columns: str | tuple[str, int]) -> list[list[int]]:
        """Return columns of one table, all of one length; a column may have its own largest number."""
        found = [
            self._column(table, column) if isinstance(column, str) else self._column(table, *column)
            for column in columns
        ]
        if len({len(column) for column in found}) > 1:
            raise MalformedError(f"the columns of table `{table}` differ in length")
        return found

    def strings(self, rows: list[int]) -> list[str]:
        """Look strings up by row."""
        return _at(self._strings, rows, "string")

    def optional_strings(self, rows: list[int]) -> list[str | None]:
        """Look strings up by rows counted from 1; 0 is None."""
        return _at([None, *self._strings], rows, "string")

    def devices(self, rows: list[int]) -> list[str]:
        """Look names of devices up by row."""
        return [_device(name) for name in self.strings(rows)]

    def optional_devices(self, rows: list[int], beside: frozenset[str] = frozenset()) -> list[str | None]:
        """Look names of devices up by rows counted from 1; 0 is None. ``beside`` may stand there."""
        names = self.optional_strings(rows)
        return [name if name is None or name in beside else _device(name or "") for name in names]

    def paths(self, rows: list[int]) -> list[str]:
        """Look paths up by row."""
        return _at(self._paths, rows, "path")

    def _read_strings(self) -> list[str]:
        sizes = self._column("strings", "size")
        text = self._tables["strings"]["text"]
        if sum(sizes) != len(text):
            raise MalformedError("the string table does not add up")
        strings, start = [], 0
        for size in sizes:
            strings.append(text[start : start + size].decode("utf-8", "surrogatepass"))
            start += size
        return strings

    def _read_paths(self) -> list[str]:
        parents, rows = self.rows("paths", "parent", "name")
        names = self.strings(rows)
        lengths: list[int] = []
        for row, (parent, name) in enumerate(zip(parents, names, strict=True)):
            if parent > row:
                raise MalformedError("a path comes before its parent")
            lengths.append(len(name) + (lengths[parent - 1] + 1 if parent else 0))
        check_path_lengths(lengths, len(lengths))
        paths: list[str] = []
        for parent, name in zip(parents, names, strict=True):
            paths.append(f"{paths[parent - 1]}.{name}" if parent else name)
        return paths


def _at(values: list[_T], rows: list[int], what: str) -> list[_T]:
    if max(rows, default=0) >= len(values) and rows:
        raise MalformedError(f"there is no {what} {max(rows)}")
    return [values[row] for row in rows]


def _device(name: str) -> str:
    if not is_device_name(name):
        raise MalformedError("a device has a name no device can have")
    return name


def from_optional(values: Iterable[int | None]) -> list[int]:
    """Write numbers counted from 1, so that 0 can stand for None."""
    return [0 if value is None else value + 1 for value in values]


def to_optional(values: Iterable[int]) -> list[int | None]:
    """Read what `from_optional` wrote."""
    return [value - 1 if value else None for value in values]


def slices(counts: list[int], total: int, what: str) -> list[range]:
    """Return for each row the range of its rows in a child table of ``total`` rows."""
    if sum(counts) != total:
        raise MalformedError(f"the counts of `{what}` do not add up")
    ranges, start = [], 0
    for count in counts:
        ranges.append(range(start, start + count))
        start += count
    return ranges


def grouped(values: Sequence[_T], counts: list[int], what: str) -> list[tuple[_T, ...]]:
    """Return the rows of a child table for each row of its parent."""
    return [tuple(values[span.start : span.stop]) for span in slices(counts, len(values), what)]

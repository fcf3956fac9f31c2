"""Offsets as an editor counts them: lines from 0, columns in the units of its encoding.

A line ends at a line feed and nowhere else, as in `ir.Source`.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

_UNITS: Final = {"utf-8": ("utf-8", 1), "utf-16": ("utf-16-le", 2), "utf-32": ("utf-32-le", 4)}


class Positions:
    """The lines of one text."""

    def __init__(self, text: str, encoding: str = "utf-16") -> None:
        self._text = text
        self._codec, self._width = _UNITS[encoding]
        self._starts = [0, *(at + 1 for at, char in enumerate(text) if char == "\n")]

    def position(self, offset: int) -> tuple[int, int]:
        """Return the line and column of an offset."""
        line = bisect_right(self._starts, offset) - 1
        return line, self._units(self._text[self._starts[line] : offset])

    def offset(self, line: int, column: int) -> int:
        """Return the offset of a line and column; beyond an end, that end."""
        if line >= len(self._starts):
            return len(self._text)
        start = self._starts[line]
        end = self._starts[line + 1] - 1 if line + 1 < len(self._starts) else len(self._text)
        row = self._text[start:end]
        if row.isascii():
            return start + min(column, len(row))
        units = 0
        for at, char in enumerate(row):
            if units >= column:
                return start + at
            units += self._units(char)
        return end

    def _units(self, text: str) -> int:
        return len(text) if text.isascii() else len(text.encode(self._codec, "surrogatepass")) // self._width

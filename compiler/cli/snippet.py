"""Source lines with carets: what a diagnostic points at, as a terminal shows it.

The first label is the primary one and gets ``^``, the others ``-``. Columns count what the terminal
shows, not characters: wide characters take two, tabs four, escapes as many as they have.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from ...ir import Label, Source
from ...ir.visible import shown, visible
from .terminal import Line, cell_width

_GUTTER: Final = "blue"
_SECONDARY: Final = "blue"
_UNLIMITED: Final = 160
"""Columns of a source line where there is no terminal to ask."""


@dataclass(frozen=True, slots=True)
class _Mark:
    """One label on one line: columns of the line's text, half open."""

    line: int
    start: int
    end: int
    text: str
    sign: str
    style: str


def snippet(labels: Sequence[Label], style: str, gutter: int, width: int | None) -> Iterator[Line]:
    """Return the lines labels point at, one block per source, the primary label's source first."""
    marks: dict[Source, list[_Mark]] = {}
    for index, label in enumerate(labels):
        mark = _mark(label, "-" if index else "^", _SECONDARY if index else style)
        marks.setdefault(label.span.source, []).append(mark)
    for index, (source, group) in enumerate(marks.items()):
        arrow = "::: " if index else "--> "
        place = f"{visible(source.name)}:{group[0].line}:{group[0].start + 1}"
        yield [(_GUTTER, " " * gutter + arrow), ("", place)]
        yield [(_GUTTER, f"{' ' * gutter} |")]
        yield from _lines(source, group, gutter, (width or _UNLIMITED) - gutter - 3)


def _mark(label: Label, sign: str, style: str) -> _Mark:
    line, column = label.span.source.position(label.span.start)
    end_line, end_column = label.span.source.position(label.span.end)
    length = len(label.span.source.line(line))
    end = end_column - 1 if end_line == line else length
    return _Mark(line, column - 1, max(end, column), label.text, sign, style)


def _lines(source: Source, marks: Sequence[_Mark], gutter: int, room: int) -> Iterator[Line]:
    previous = 0
    for number in sorted({mark.line for mark in marks}):
        if previous and number == previous + 2:
            yield _numbered(number - 1, _Shown(source.line(number - 1), 0, room).text, gutter)
        elif previous and number > previous + 2:
            yield [(_GUTTER, "...")]
        here = [mark for mark in marks if mark.line == number]
        line = _Shown(source.line(number), here[0].start, room)
        yield _numbered(number, line.text, gutter)
        for mark in here:
            start, end = line.column(mark.start), line.column(mark.end)
            signs = mark.sign * max(end - start, 1)
            text = f"{signs} {visible(mark.text)}" if mark.text else signs
            yield [(_GUTTER, f"{' ' * gutter} | "), ("", " " * start), (mark.style, text)]
        previous = number


def _numbered(number: int, text: str, gutter: int) -> Line:
    return [(_GUTTER, f"{number:>{gutter}} | "), ("", text)]


class _Shown:
    """A line as it is shown: escaped, and cut to a window around the place of interest."""

    def __init__(self, line: str, focus: int, room: int) -> None:
        cells = [shown(char) for char in line]
        ends = list(accumulate(map(cell_width, cells), initial=0))
        first, last = 0, len(cells)
        if ends[-1] > room:
            while ends[min(focus, len(cells))] - ends[first] > room * 2 // 3:
                first += 1
            while ends[last] - ends[first] > room - 2:
                last -= 1
        head, tail = "…" if first else "", "…" if last < len(cells) else ""
        self.text = head + "".join(cells[first:last]) + tail
        self._columns = [min(max(end - ends[first], 0), ends[last] - ends[first]) + len(head) for end in ends]

    def column(self, offset: int) -> int:
        """Return the column where a character is shown; one past the end is the line's end and on."""
        beyond = max(0, offset - len(self._columns) + 1)
        return self._columns[offset - beyond] + beyond

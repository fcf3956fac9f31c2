"""The words of a text that name something: paths, devices and classes, each with its place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Final

from ...grammar.parser import parse_document
from ...grammar.statements import STATEMENTS, Field, Kind, elements
from ...grammar.syntax import Line, OptionLine, Path, Word
from ...ir import Diagnostics, Source, Span, read_device_name
from ...ir.patterns import PatternError, expand_braces


@dataclass(frozen=True, slots=True)
class Mention:
    """One word and what it names: a device by its canonical name, a path without its quotes.

    The words of an option are a `Kind.NAME` and a `Kind.TEXT`.
    """

    kind: Kind
    name: str
    start: int
    end: int
    literal: bool = False
    """Whether a path was quoted, so that its braces stand for themselves."""


_KINDS: Final = {
    (row.node, slot.field): slot.kind
    for row in STATEMENTS
    for slot in elements(row.words)
    if isinstance(slot, Field) and (slot.kind in {Kind.DEVICE, Kind.CLASS} or row.node is OptionLine)
}


def mentions(text: str) -> Iterator[Mention]:
    """Yield what the readable lines of a text name, in order."""
    for line in parse_document(Source("", text), Diagnostics()).lines:
        yield from _of_line(line)


def mention_at(text: str, offset: int) -> Mention | None:
    """Return what the word at an offset names; only its line is read."""
    start, end = line_around(text, offset)
    for each in mentions(text[start:end]):
        if each.start <= offset - start <= each.end:
            return Mention(each.kind, each.name, each.start + start, each.end + start, each.literal)
    return None


def line_around(text: str, offset: int) -> tuple[int, int]:
    """Return where the line of an offset starts and where it ends, without its line break."""
    start = text.rfind("\n", 0, offset) + 1
    end = text.find("\n", offset)
    return start, len(text) if end < 0 else end


def expanded(pattern: str) -> list[str]:
    """Expand the braces of a pattern; one whose braces are unfinished stands for itself."""
    try:
        return expand_braces(pattern)
    except PatternError:
        return [pattern]


def _of_line(line: Line) -> Iterator[Mention]:
    statement = line.statement
    for field in fields(statement):
        value = getattr(statement, field.name)
        for word in value if isinstance(value, tuple) else (value,):
            found = _mention(word, _KINDS.get((type(statement), field.name)))
            if found is not None:
                yield found


def _mention(word: object, kind: Kind | None) -> Mention | None:
    match word:
        case Path(text, literal, Span(_, start, end)):
            return Mention(Kind.PATH, text, start, end, literal)
        case Word(text, Span(_, start, end)) if kind is Kind.DEVICE:
            name = read_device_name(text)
            return None if name is None else Mention(kind, name, start, end)
        case Word(text, Span(_, start, end)) if kind is not None:
            return Mention(kind, text, start, end)
        case _:
            return None

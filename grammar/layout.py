"""Syntax to text: the only code that decides about blanks, for the printer and the formatter alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from .statements import ATTRIBUTES, STATEMENTS, Each, Element, Field, Kind, Many, Maybe, OneOf, Way
from .syntax import Attribute, Document, Path, Statement, Word
from .words import quote, spell_name, spell_path


def lay_out(document: Document) -> str:
    """Write a document: one statement per line, comments where they were."""
    rows: list[str] = []
    for line in document.lines:
        rows += line.before
        text = " ".join(_words(line.statement))
        rows.append(f"{text}  {line.suffix}" if line.suffix else text)
    rows += document.after
    return "".join(f"{row}\n" for row in rows)


def _words(node: Statement | Attribute) -> Iterator[str]:
    row = next(row for row in _ROWS[type(node)] if _is(row, node))
    yield row.keyword
    yield from _spelled(row.words, node)


def _is(row: Way, node: Statement | Attribute) -> bool:
    return all(getattr(node, name) == value for name, value in row.fixed.items())


def _spelled(elements: Iterable[Element], node: object) -> Iterator[str]:
    for element in elements:
        match element:
            case str():
                yield element
            case Field(name, kind):
                yield _spell(kind, getattr(node, name))
            case OneOf(name):
                yield getattr(node, name)
            case Many(Field(name, kind), between):
                yield (f" {between} " if between else " ").join(
                    _spell(kind, each) for each in getattr(node, name)
                )
            case Maybe(inner, flag):
                if getattr(node, flag) if flag else _is_said(inner, node):
                    yield from _spelled(inner, node)
            case Each(name):
                for each in getattr(node, name):
                    yield from _words(each)


def _is_said(elements: Iterable[Element], node: object) -> bool:
    return all(getattr(node, each.field) is not None for each in elements if isinstance(each, Field))


def _spell(kind: Kind, word: Word | Path) -> str:
    if isinstance(word, Path):
        return spell_path(word)
    match kind:
        case Kind.TEXT:
            return quote(word.text)
        case Kind.NAME | Kind.CLASS:
            return spell_name(word.text)
        case _:
            return word.text


def _rows() -> dict[object, list[Way]]:
    """Return the rows of each node, those that fix most first."""
    rows: dict[object, list[Way]] = {}
    for row in sorted((*STATEMENTS, *ATTRIBUTES), key=lambda row: -len(row.fixed)):
        rows.setdefault(row.node, []).append(row)
    return rows


_ROWS: Final = _rows()

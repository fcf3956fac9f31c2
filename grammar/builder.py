"""One line's words to a statement. The grammar has checked their order; its row gives them their names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple, cast

from ..ir import Source, Span
from .statements import (
    STATEMENTS,
    Each,
    Element,
    Field,
    Kind,
    Many,
    Maybe,
    OneOf,
    Way,
    first_terminals,
    terminal,
)
from .syntax import Path, Statement, Word
from .words import ROOT, is_bare, unquote


class Token(NamedTuple):
    """A word of one line: the name of its terminal, its text, and where in the line it is."""

    type: str
    text: str
    start: int
    end: int


class MalformedWordError(Exception):
    """A quoted word with an escape that means nothing."""

    def __init__(self, token: Token) -> None:
        super().__init__(token.text)
        self.token = token


class _Words:
    """The words of a line, taken one after the other."""

    def __init__(self, tokens: list[Token], source: Source, start: int) -> None:
        self._tokens = tokens
        self._source = source
        self._start = start
        self._at = 0

    def take(self) -> Token:
        """Take the next word as it is."""
        self._at += 1
        return self._tokens[self._at - 1]

    def next_is(self, types: tuple[str, ...]) -> bool:
        """Say whether the next word is of one of these types."""
        return self._at < len(self._tokens) and self._tokens[self._at].type in types

    def slot(self, kind: Kind) -> Word | Path:
        """Take a word of a kind: its text between quotes decoded, the root of a model as no text."""
        token = self.take()
        span = Span(self._source, self._start + token.start, self._start + token.end)
        quoted = token.type == "STRING"
        text = _unquoted(token) if quoted else token.text
        if kind is not Kind.PATH:
            return Word(text, span)
        return (
            Path(text, not is_bare(text), span) if quoted else Path("" if text == ROOT else text, span=span)
        )


def _unquoted(token: Token) -> str:
    text = unquote(token.text)
    if text is None:
        raise MalformedWordError(token)
    return text


def build_statement(tokens: list[Token], source: Source, start: int) -> Statement:
    """Build the statement of one line; ``start`` is the offset of the line in the text."""
    words = _Words(tokens, source, start)
    rows = _ROWS[words.take().type]
    row = next((row for row in rows[1:] if words.next_is(first_terminals(row.words[0]))), rows[0])
    return cast("Statement", row.node(**_fields(row, words)))


def _fields(row: Way, words: _Words) -> dict[str, Any]:
    fields: dict[str, Any] = dict(row.fixed)
    _take(row.words, words, fields)
    return fields


def _take(elements: Iterable[Element], words: _Words, fields: dict[str, Any]) -> None:
    for element in elements:
        match element:
            case str():
                words.take()
            case Field(name, kind):
                fields[name] = words.slot(kind)
            case OneOf(name):
                fields[name] = words.take().text
            case Many(Field(name, kind), between):
                fields[name] = tuple(_several(words, kind, between))
            case Maybe(inner, flag):
                if words.next_is(first_terminals(element)):
                    _take(inner, words, fields)
                    fields |= {flag: True} if flag else {}
            case Each(name, rows):
                fields[name] = tuple(_groups(words, rows))


def _several(words: _Words, kind: Kind, between: str) -> Iterable[Word | Path]:
    yield words.slot(kind)
    while words.next_is((terminal(between),) if between else first_terminals(Field("", kind))):
        if between:
            words.take()
        yield words.slot(kind)


def _groups(words: _Words, rows: tuple[Way, ...]) -> Iterable[object]:
    by_word = {terminal(row.keyword): row for row in rows}
    while words.next_is(tuple(by_word)):
        row = by_word[words.take().type]
        yield row.node(**_fields(row, words))


def _rows() -> dict[str, list[Way]]:
    """Return the rows of each keyword; of several the first is the usual one."""
    rows: dict[str, list[Way]] = {}
    for row in STATEMENTS:
        rows.setdefault(terminal(row.keyword), []).append(row)
    return rows


_ROWS: Final = _rows()

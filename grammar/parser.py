"""Text to syntax, line by line; the only module that knows lark, and it opens that door when needed.

A wrong line becomes a diagnostic and the next line is read as if nothing had happened.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Final, cast

from ..ir import Diagnostics, Source, Span
from .builder import MalformedWordError, Token, build_statement
from .errors import Mistake, describe, long_line, malformed_word, many_mistakes
from .known_shapes import SHAPES, TERMINALS
from .syntax import Document, Line, Statement

if TYPE_CHECKING:
    from lark import Lark
    from lark import Token as LarkToken

_TOUCHING: Final = frozenset({"COLON", "EQUALS", "COMMENT"})
_MOST_ERRORS: Final = 100
_MOST_SHAPES: Final = 1_000
_LONGEST_LINE: Final = 2**20
_MARKS: Final = '"#'
_LISTED_MARKS: Final = {"STRING": '"', "COMMENT": "#"}
_WORDS: Final = re.compile(r'"(?:[^"\\]|\\.)*"|#.*|[^\s"#]+|"')


@cache
def _lark() -> Lark:
    from importlib import resources

    from lark import Lark as Engine

    grammar = resources.files(__package__ or "compile_plan.grammar").joinpath("plan.lark").read_text("utf-8")
    return Engine(grammar, start="line", parser="lalr", lexer="contextual")


def grammar_terminals() -> dict[str, str]:
    """Return the pattern of every terminal of the grammar, by name."""
    return {each.name: each.pattern.to_regexp() for each in _lark().terminals}


def next_terminals(words: str) -> frozenset[str]:
    """Return the terminals that may follow the complete words of an unfinished line; none after a mistake."""
    from lark.exceptions import LarkError

    state = _lark().parse_interactive(words)
    try:
        state.exhaust_lexer()
    except LarkError:
        return frozenset()
    return frozenset(state.accepts())  # type: ignore[no-untyped-call]  # lark leaves it untyped


def parse_document(source: Source, diagnostics: Diagnostics) -> Document:
    """Read every line of a text; lines with a mistake are reported and left out."""
    lines: list[Line] = []
    comments: list[str] = []
    start = mistakes = 0
    for row in source.text.split("\n"):
        text = row.strip()
        if not text or text.startswith("#"):
            comments.append(text)
        else:
            line = _parse_line(source, start, row, tuple(_tidy(comments, first=not lines)), diagnostics)
            comments.clear()
            if line is not None:
                lines.append(line)
            else:
                mistakes += 1
        if mistakes == _MOST_ERRORS:
            diagnostics.add(many_mistakes(Span(source, start, start + len(row)), mistakes))
            break
        start += len(row) + 1
    after = _tidy(comments, first=not lines)
    while after and not after[-1]:
        after.pop()
    return Document(tuple(lines), tuple(after))


def _tidy(comments: list[str], *, first: bool) -> list[str]:
    """Keep one blank line of several, and none at the start of the text."""
    kept: list[str] = []
    for comment in comments:
        if comment or (kept[-1] if kept else not first):
            kept.append(comment)
    return kept


def _parse_line(
    source: Source, start: int, row: str, before: tuple[str, ...], diagnostics: Diagnostics
) -> Line | None:
    if len(row) > _LONGEST_LINE:
        diagnostics.add(long_line(Span(source, start, start + _LONGEST_LINE), len(row)))
        return None
    tokens = _shapes().read(row)
    if isinstance(tokens, Mistake):
        diagnostics.add(describe(tokens, source, start, row, _reads))
        return None
    suffix = tokens.pop().text.rstrip() if tokens[-1].type == "COMMENT" else ""
    try:
        statement: Statement = build_statement(tokens, source, start)
    except MalformedWordError as wrong:
        diagnostics.add(malformed_word(wrong, source, start))
        return None
    return Line(statement, before, suffix, Span(source, start + tokens[0].start, start + tokens[-1].end))


class Shapes:
    """Lines that differ only in their names have the same words in the same order: lark reads one of them.

    A shape is a line with its names left out; it holds the terminals of its words, and a word that is
    not of its terminal sends the line to lark. With the usual shapes known, usual texts need no lark.
    """

    def __init__(self, terminals: Mapping[str, str], known: Iterable[str]) -> None:
        self._tests = {name: re.compile(regexp).fullmatch for name, regexp in terminals.items()}
        self._keywords = {name.lower() for name in terminals if name.lower() in terminals.values()}
        self.known = dict(map(self._listed, known))

    def _listed(self, shape: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return a shape written with its keywords and terminals, and the terminals."""
        words = shape.split()
        names = tuple(word if word in self._keywords else _LISTED_MARKS.get(word, "") for word in words)
        return names, tuple(word.upper() for word in words)

    def read(self, row: str) -> list[Token] | Mistake:
        """Return the words of a line with their terminals, or where it stops making sense."""
        words: list[tuple[str, int, int]] = []
        shape: list[str] = []
        end = -1
        for match in _WORDS.finditer(row):
            word = match[0]
            start = match.start()
            shape.append(word if word in self._keywords else word[0] if word[0] in _MARKS else "")
            if start == end and shape[-1] != "#":
                return _read(row)
            end = start + len(word)
            words.append((word, start, end))
        types = self.known.get(tuple(shape))
        if types is not None:
            tokens = [Token(kind, *word) for kind, word in zip(types, words, strict=True)]
            if all(self._tests[token.type](token.text) for token in tokens):
                return tokens
        read = _read(row)
        if not isinstance(read, Mistake) and [token[1:] for token in read] == words:
            if len(self.known) == _MOST_SHAPES:
                self.known.clear()
            self.known[tuple(shape)] = tuple(token.type for token in read)
        return read


@cache
def _shapes() -> Shapes:
    return Shapes(TERMINALS, SHAPES)


def _reads(row: str) -> bool:
    return not isinstance(_read(row), Mistake)


def _read(row: str) -> list[Token] | Mistake:
    from lark.exceptions import UnexpectedCharacters, UnexpectedToken

    try:
        found = cast("list[LarkToken]", _lark().parse(row).children)
    except UnexpectedCharacters as error:
        return Mistake(error.pos_in_stream or 0, frozenset(error.allowed or ()))
    except UnexpectedToken as error:
        at = len(row.rstrip()) if error.token.type == "$END" else error.token.start_pos
        return Mistake(at or 0, frozenset(error.expected))
    tokens: list[Token] = []
    end = -1
    for token in found:
        lexed = Token(token.type, str(token), token.start_pos or 0, token.end_pos or 0)
        if lexed.start == end and lexed.type not in _TOUCHING and tokens[-1].type not in _TOUCHING:
            return Mistake(tokens[-1].start, frozenset({tokens[-1].type}))
        end = lexed.end
        tokens.append(lexed)
    return tokens

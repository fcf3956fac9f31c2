"""Lists of paths to patterns and back: `{0..79}` for a regular stack, in exactly the same order.

Braces expand leftmost slowest, so a stack of split layers is one pattern only where its layers list
the same names in the same order. Names that are no numbers are joined only inside a stack.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from .syntax import Path
from .words import is_bare, path_of

_LONGEST_TAIL: Final = 90
_DEEPEST_PATH: Final = 64
_DEEPEST_BRACE: Final = 8


@dataclass(frozen=True, slots=True)
class Folded:
    """A pattern and how many consecutive paths it stands for."""

    path: Path
    count: int


@dataclass(frozen=True, slots=True)
class _Piece:
    text: str
    count: int


def fold_paths(paths: Sequence[str]) -> list[Folded]:
    """Compress paths to patterns that expand to the same paths in the same order."""
    folded: list[Folded] = []
    for foldable, run in groupby(paths, is_foldable):
        if foldable:
            rows = [tuple(path.split(".")) for path in run]
            pieces = _fold(rows, 0, in_stack=False)
            folded += [Folded(Path(piece.text), piece.count) for piece in pieces]
        else:
            folded += [Folded(path_of(path), 1) for path in run]
    return folded


def fold_names(names: Sequence[str], *, in_stack: bool) -> list[tuple[str, int]]:
    """Compress names of one level; each must be bare."""
    pieces = _fold([(name,) for name in names], 0, in_stack=in_stack)
    return [(piece.text, piece.count) for piece in pieces]


def is_foldable(path: str) -> bool:
    """Say whether a path is plain enough to be part of a pattern."""
    return bool(path) and is_bare(path) and path.count(".") < _DEEPEST_PATH


def _fold(rows: Sequence[tuple[str, ...]], depth: int, *, in_stack: bool) -> list[_Piece]:
    pieces: list[_Piece] = []
    names: list[str] = []
    tails: list[_Piece] = []
    for name, group in _by_name(rows, depth):
        below = in_stack or name.isdigit()
        own = _fold(group, depth + 1, in_stack=below) if len(group[0]) > depth + 1 else []
        same = bool(names) and own == tails and _fits(tails)
        if same and _joins(names, name, in_stack=in_stack):
            names.append(name)
            continue
        pieces += _spell(names, tails)
        names, tails = [name], own
    return pieces + _spell(names, tails)


def _by_name(rows: Sequence[tuple[str, ...]], depth: int) -> Iterable[tuple[str, Sequence[tuple[str, ...]]]]:
    """Group consecutive rows that go on below the same name; a row that ends stands alone."""
    start = 0
    for at in range(1, len(rows) + 1):
        row = rows[start]
        ends = len(row) == depth + 1
        if at < len(rows) and rows[at][depth] == row[depth] and not ends and len(rows[at]) > depth + 1:
            continue
        yield row[depth], rows[start:at]
        start = at


def _joins(names: list[str], name: str, *, in_stack: bool) -> bool:
    last = names[-1]
    if name.isdigit() or last.isdigit():
        return is_number(last) and is_number(name) and int(name) == int(last) + 1
    return in_stack and name not in names


def is_number(name: str) -> bool:
    """Say whether a name is a number that reads back as itself."""
    return name.isascii() and name.isdigit() and len(name) < 18 and str(int(name)) == name


def _fits(tails: list[_Piece]) -> bool:
    """Say whether several tails can stand in one brace that a person can still read."""
    texts = [tail.text for tail in tails]
    return len(texts) < 2 or (
        sum(map(len, texts)) <= _LONGEST_TAIL and max(text.count("{") for text in texts) < _DEEPEST_BRACE
    )


def _spell(names: list[str], tails: list[_Piece]) -> list[_Piece]:
    if not names:
        return []
    head = names[0] if len(names) == 1 else _brace(names)
    if not tails:
        return [_Piece(head, len(names))]
    if len(names) == 1 or not _fits(tails):
        return [_Piece(f"{head}.{tail.text}", len(names) * tail.count) for tail in tails]
    tail = tails[0].text if len(tails) == 1 else f"{{{','.join(tail.text for tail in tails)}}}"
    return [_Piece(f"{head}.{tail}", len(names) * sum(tail.count for tail in tails))]


def _brace(names: list[str]) -> str:
    if len(names) > 2 and names[0].isdigit():
        return f"{{{names[0]}..{names[-1]}}}"
    return f"{{{','.join(names)}}}"

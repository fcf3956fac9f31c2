"""Path patterns: braces that expand as in a shell, and wildcards that match names of a tree.

``{0..3}`` and ``{q_proj,k_proj}`` are expanded when a text is read. ``*`` stands for any part of one
name, ``**`` between dots for any number of names (at the end: at least one). A path that exists
literally is never read as a pattern, so a module that is really called ``*`` can be named.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Final, TypeAlias

from .pattern_walk import machine_of, matching_paths
from .tree import ModuleTree

_RANGE: Final = re.compile(r"(-?\d{1,18})\.\.(-?\d{1,18})(?:\.\.(-?\d{1,18}))?")
_DEEPEST: Final = 16


class PatternError(ValueError):
    """A pattern that cannot be expanded; the message says why, in words for people."""


@dataclass(frozen=True, slots=True)
class _Range:
    numbers: range
    width: int = 0


@dataclass(frozen=True, slots=True)
class _Choice:
    options: tuple[_Sequence, ...]


_Part: TypeAlias = "str | _Range | _Choice"
_Sequence: TypeAlias = "tuple[_Part, ...]"


def expand_braces(pattern: str, limit: int = 100_000) -> list[str]:
    """Expand every brace of a pattern, leftmost slowest, as a shell does.

    Raises `PatternError` for unbalanced braces and, before anything is built, for more than ``limit`` paths.
    """
    if "{" not in pattern and "}" not in pattern:
        return [pattern]
    sequence, end = _read_sequence(pattern, 0, 0)
    if end < len(pattern):
        raise PatternError("`}` without a `{` before it")
    count = _count(sequence)
    if count > limit:
        shown = f"{count:,}" if count < 10**12 else "far too many"
        raise PatternError(f"it names {shown} paths, more than {limit:,}")
    return list(_spell(sequence))


def _read_sequence(text: str, start: int, depth: int) -> tuple[_Sequence, int]:
    parts: list[_Part] = []
    at = begin = start
    while at < len(text):
        char = text[at]
        if char == "{":
            if depth == _DEEPEST:
                raise PatternError(f"braces are nested more than {_DEEPEST} deep")
            parts += [text[begin:at]] if begin < at else []
            part, at = _read_brace(text, at + 1, depth + 1)
            parts.append(part)
            begin = at
        elif char == "}" or (char == "," and depth):
            break
        else:
            at += 1
    parts += [text[begin:at]] if begin < at else []
    return tuple(parts), at


def _read_brace(text: str, start: int, depth: int) -> tuple[_Part, int]:
    match = _RANGE.match(text, start)
    if match is not None and text[match.end() : match.end() + 1] == "}":
        return _read_range(match), match.end() + 1
    options: list[_Sequence] = []
    at = start
    while True:
        option, at = _read_sequence(text, at, depth)
        options.append(option)
        if at >= len(text):
            raise PatternError("`{` without a `}` after it")
        at += 1
        if text[at - 1] == "}":
            break
    if options == [()]:
        raise PatternError("`{}` names nothing")
    return _Choice(tuple(options)), at


def _read_range(match: re.Match[str]) -> _Range:
    first, last = int(match[1]), int(match[2])
    step = abs(int(match[3] or 1)) or 1
    numbers = range(first, last + 1, step) if first <= last else range(first, last - 1, -step)
    padded = any(len(end) > 1 and end.lstrip("-").startswith("0") for end in (match[1], match[2]))
    return _Range(numbers, max(len(match[1]), len(match[2])) if padded else 0)


def _count(sequence: _Sequence) -> int:
    return prod(_count_part(part) for part in sequence)


def _count_part(part: _Part) -> int:
    if isinstance(part, _Range):
        return (part.numbers[-1] - part.numbers[0]) // part.numbers.step + 1
    return sum(map(_count, part.options)) if isinstance(part, _Choice) else 1


def _spell(sequence: _Sequence) -> Iterator[str]:
    return map("".join, product(*map(_spell_part, sequence)))


def _spell_part(part: _Part) -> Sequence[str]:
    if isinstance(part, _Range):
        return [f"{number:0{part.width}d}" for number in part.numbers]
    if isinstance(part, _Choice):
        return [text for option in part.options for text in _spell(option)]
    return (part,)


def is_pattern(path: str) -> bool:
    """Say whether a path holds a wildcard (braces are expanded before a path gets here)."""
    return "*" in path


def matches(pattern: str, path: str) -> bool:
    """Say whether a pattern names this very path (not what is above or below it)."""
    if pattern == path:
        return True
    if not is_pattern(pattern) or not path:
        return False
    machine = machine_of(pattern)
    states = machine.start
    for name in path.split("."):
        states = machine.step(states, name)
    return machine.last in states


def match_paths(tree: ModuleTree, pattern: str) -> list[str]:
    """Return every module and tensor path a pattern names, in tree order; a plain path names itself."""
    if pattern in tree.module_index or pattern in tree.tensor_index:
        return [pattern]
    return matching_paths(tree, machine_of(pattern)) if is_pattern(pattern) else []


def outermost(paths: Sequence[str]) -> list[str]:
    """Drop every path that lies below another one of the list; the order stays."""
    named = set(paths)
    return [path for path in paths if not any(parent in named for parent in _ancestors(path))]


def _ancestors(path: str) -> Iterator[str]:
    if path:
        yield ""
    at = path.find(".")
    while at >= 0:
        yield path[:at]
        at = path.find(".", at + 1)

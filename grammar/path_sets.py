"""Sets of paths as people read them: ranges with steps and exceptions, whatever order they came in.

`ranges` keeps the order of a plan's lines; here only the set counts, so every layer that holds the same
names is said once: ``layers.{0..38..2}``, ``layers.{0..93} except {7,40}``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, TypeAlias

from .ranges import is_foldable, is_number

_LONGEST_TAIL: Final = 90
_MOST_EXCEPTIONS: Final = 6
_SHORTEST_STEP: Final = 3
"""Numbers that must follow each other at one distance before a range says it."""

_Node: TypeAlias = dict[str, "_Node"]
_ENDS: Final = ""
"""The key under which a path ends; no name is empty."""


@dataclass(frozen=True, slots=True)
class PathSet:
    """Words for some paths, and how many they are."""

    text: str
    count: int


@dataclass(frozen=True, slots=True)
class _Head:
    text: str
    exceptions: str
    count: int


def fold_set(paths: Iterable[str]) -> list[PathSet]:
    """Return words that together name just these paths, in the order the first of each came in."""
    root: _Node = {}
    literal: list[PathSet] = []
    for path in dict.fromkeys(paths):
        if is_foldable(path):
            node = root
            for name in path.split("."):
                node = node.setdefault(name, {})
            node[_ENDS] = {}
        else:
            literal.append(PathSet(path or "the whole model", 1))
    return [*literal, *_Folder().patterns(root, in_stack=False)]


class _Folder:
    """Patterns of a tree of names; equal subtrees have one number, so that they are compared once."""

    def __init__(self) -> None:
        self._shapes: dict[tuple[tuple[str, int], ...], int] = {}

    def patterns(self, node: _Node, *, in_stack: bool) -> list[PathSet]:
        """Return the patterns of everything below a node, relative to it."""
        groups: dict[tuple[int, bool, str], list[str]] = {}
        for name, child in node.items():
            joins = name and (in_stack or is_number(name))
            key = (self._shape(child), is_number(name), "" if joins else name)
            groups.setdefault(key, []).append(name)
        found: list[PathSet] = []
        for (_, numbers, _), names in groups.items():
            if names == [_ENDS]:
                found.append(PathSet("", 1))
                continue
            tails = self.patterns(node[names[0]], in_stack=in_stack or numbers)
            found += _joined(_heads(names, numbers=numbers), tails)
        return found

    def _shape(self, node: _Node) -> int:
        key = tuple((name, self._shape(child)) for name, child in sorted(node.items()))
        return self._shapes.setdefault(key, len(self._shapes))


def _joined(heads: Iterable[_Head], tails: Sequence[PathSet]) -> Iterator[PathSet]:
    """Yield each head before its tails; those of a range are in one brace while that can be read."""
    texts = [tail.text for tail in tails]
    plain = "" not in texts and not any(" except " in text for text in texts)
    if plain and len(tails) > 1 and sum(map(len, texts)) <= _LONGEST_TAIL:
        brace = [PathSet(f"{{{','.join(texts)}}}", sum(tail.count for tail in tails))]
    else:
        brace = list(tails)
    for head in heads:
        for tail in brace if head.text.startswith("{") else tails:
            text = f"{head.text}.{tail.text}" if tail.text else head.text
            yield PathSet(f"{text}{head.exceptions}", head.count * tail.count)


def _heads(names: list[str], *, numbers: bool) -> list[_Head]:
    """Return names as braces, each with what it does not mean."""
    if not numbers:
        return [_Head(names[0] if len(names) == 1 else f"{{{','.join(names)}}}", "", len(names))]
    ordered = sorted(map(int, names))
    plain = list(_progressions(ordered))
    first, last = ordered[0], ordered[-1]
    absent = sorted(set(range(first, last + 1)) - set(ordered)) if last - first < 2 * len(ordered) else []
    if len(plain) > 2 and absent and len(absent) <= min(_MOST_EXCEPTIONS, len(ordered) // 4):
        return [_Head(f"{{{first}..{last}}}", f" except {_brace(absent)}", len(ordered))]
    return plain


def _progressions(numbers: Sequence[int]) -> Iterator[_Head]:
    """Yield ranges with their steps; numbers of no range are one list."""
    at, odd = 0, list[int]()
    while at < len(numbers):
        end = _run(numbers, at)
        if end - at >= _SHORTEST_STEP:
            text = _range(numbers[at], numbers[end - 1], numbers[at + 1] - numbers[at])
            yield _Head(text, "", end - at)
            at = end
        else:
            odd.append(numbers[at])
            at += 1
    if odd:
        yield _Head(_brace(odd), "", len(odd))


def _run(numbers: Sequence[int], start: int) -> int:
    """Return one past the last number that keeps the distance of the first two."""
    if start + 1 >= len(numbers):
        return start + 1
    step = numbers[start + 1] - numbers[start]
    broken = (at + 1 for at, (a, b) in enumerate(pairwise(numbers[start:]), start) if b - a != step)
    return next(broken, len(numbers))


def _range(first: int, last: int, step: int) -> str:
    return f"{{{first}..{last}}}" if step == 1 else f"{{{first}..{last}..{step}}}"


def _brace(numbers: Sequence[int]) -> str:
    return str(numbers[0]) if len(numbers) == 1 else f"{{{','.join(map(str, numbers))}}}"

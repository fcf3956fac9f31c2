"""Lists of paths for people: regular stacks become ranges, ``h.{0..11}.attn`` for twelve paths."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

_NUMBER: Final = re.compile(r"0|[1-9]\d{0,8}")


def compress(paths: Iterable[str]) -> list[tuple[str, int]]:
    """Return patterns and how many paths each stands for, in order of the first path of each.

    The innermost numbers are joined first, so that equal ranges can be joined further out:
    ``layers.{0..3}.experts.{0..255}``.
    """
    rows: dict[tuple[str, ...], int] = {}
    for path in paths:
        rows.setdefault(tuple(path.split(".")), 1)
    for place in range(max(map(len, rows), default=0) - 1, -1, -1):
        rows = _joined(rows, place)
    return [(".".join(parts), count) for parts, count in rows.items()]


def _joined(rows: dict[tuple[str, ...], int], place: int) -> dict[tuple[str, ...], int]:
    """Join runs of numbers at one place of otherwise equal rows with equal counts."""
    groups: dict[tuple[tuple[str, ...], tuple[str, ...], int], list[int]] = {}
    for parts, count in rows.items():
        if place < len(parts) and _NUMBER.fullmatch(parts[place]):
            groups.setdefault((parts[:place], parts[place + 1 :], count), []).append(int(parts[place]))
    joined: dict[tuple[str, ...], tuple[tuple[str, ...], int]] = {}
    for (before, after, count), numbers in groups.items():
        for first, last in _runs(numbers):
            if first < last:
                merged = (*before, f"{{{first}..{last}}}", *after), count * (last - first + 1)
                joined.update({(*before, str(n), *after): merged for n in range(first, last + 1)})
    return dict(joined.get(parts, (parts, count)) for parts, count in rows.items())


def _runs(numbers: list[int]) -> list[tuple[int, int]]:
    """Return the first and last of each run of consecutive numbers."""
    runs: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number - 1:
            runs[-1] = runs[-1][0], number
        else:
            runs.append((number, number))
    return runs

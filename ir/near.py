"""Did you mean: the one name that is near a misspelled one, or nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

_LONGEST: Final = 64
_MOST: Final = 20_000


def edit_distance(left: str, right: str, limit: int) -> int:
    """Count the insertions, deletions, changes and swaps of neighbours; above ``limit`` any larger number."""
    if abs(len(left) - len(right)) > limit:
        return limit + 1
    before: list[int] = []
    row = list(range(len(right) + 1))
    for i, char in enumerate(left, start=1):
        older, before, row = before, row, [i]
        for j, other in enumerate(right, start=1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (char != other))
            if i > 1 and j > 1 and char == right[j - 2] and other == left[i - 2]:
                cost = min(cost, older[j - 2] + 1)
            row.append(cost)
        if min(row) > limit:
            return limit + 1
    return row[-1]


def near_name(name: str, candidates: Iterable[str]) -> str | None:
    """Return the candidate nearest to ``name`` when exactly one is near enough to be meant.

    Numbers are never near each other: ``layers.80`` is not a misspelled ``layers.8``.
    """
    if not name or len(name) > _LONGEST or name.isdigit():
        return None
    limit = min(2, max(1, len(name) // 3))
    best: list[str] = []
    nearest = limit
    for candidate in list(dict.fromkeys(candidates))[:_MOST]:
        distance = edit_distance(name.lower(), candidate.lower(), nearest)
        if candidate == name or distance > nearest or candidate.isdigit():
            continue
        best = [*best, candidate] if distance == nearest and best else [candidate]
        nearest = distance
    return best[0] if len(best) == 1 else None

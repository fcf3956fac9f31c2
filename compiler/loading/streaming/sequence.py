"""The order in which the sites of a model are met: what the last pass of a kind came by.

Passes are of two kinds: those that need all of every site, and those that have rows of some and go
past them. Until a pass has been seen, sites are met in tree order.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence


class Order:
    """What comes first in a pass, and what after what."""

    def __init__(self, count: int, aside: Collection[int]) -> None:
        """Take the number of sites, and those that only passes meet which need all of them."""
        some = [number for number in range(count) if number not in aside]
        self._next = {True: _in_order(range(count)), False: _in_order(some)}
        self._firsts = {True: 0, False: next(iter(some), None)}
        self.whole = True
        """Whether this pass needs all of what is by rows."""

    @property
    def first(self) -> int | None:
        """What a pass meets to begin with."""
        return self._firsts[self.whole]

    def after(self, number: int) -> int | None:
        """Return what comes after a site."""
        return self._next[self.whole].get(number)

    def note(self, last: int | None, number: int) -> None:
        """Take in what came after what; nothing before a pass's first."""
        if last is None:
            self._firsts[self.whole] = number
        else:
            self._next[self.whole][last] = number

    def onwards(self, number: int | None) -> Iterator[int]:
        """Yield the sites from one on, each once."""
        seen = set[int]()
        while number is not None and number not in seen:
            seen.add(number)
            yield number
            number = self.after(number)


def _in_order(numbers: Sequence[int]) -> dict[int, int]:
    return dict(itertools.pairwise(numbers))

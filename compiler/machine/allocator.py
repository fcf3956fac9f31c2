"""What torch's caching allocator holds beyond what is asked of it, by playing requests through its rules.

The rules are those its notes and its source publish (`CUDACachingAllocator.cpp`, torch 2.4 to 2.13): requests
are rounded to 512 bytes; up to 1 MiB they share segments of 2 MiB, below 10 MiB segments of 20 MiB, from
there on each has one of its own, rounded to 2 MiB. The smallest free block that is large enough is taken, of
equals the one at the lowest address, and split where more than 1 MiB would be left (512 bytes among the
small). Neighbours that are free become one. At its limit the allocator gives back the segments that are free
as a whole, and tries again.

This is the one place that counts what is too little to be split off and holes that nothing fits into:
everywhere else bytes are those of what is there, at most rounded to whole requests.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import Final

_MIB: Final = 1 << 20
ROUND: Final = 512
"""Every request is rounded to as many bytes."""
_SMALL: Final = _MIB
_SMALL_SEGMENT: Final = 2 * _MIB
LARGE_SEGMENT: Final = 20 * _MIB
_OWN: Final = 10 * _MIB
"""From here on a request has a segment of its own."""
_ROUND_OWN: Final = 2 * _MIB
_ANYWHERE: Final = 1 << 62
"""More than any address."""
_STEPS: Final = 16
"""In how many steps what is reserved without a limit is lowered to what is alive."""
EXACT: Final = 2 * _MIB
"""To how many bytes the least limit is looked for."""
WORKSPACES: Final = 34 * _MIB
"""What libraries take from the allocator for good: cuBLAS 32 MiB on Hopper (8 MiB on other cards) and a small
segment beside, measured on an H100."""
LAYOUT: Final = LARGE_SEGMENT
"""What a plan needs more than the forward that is played with everything in place: where some weights are
streamed, others lie side by side. Of 63 plans at budgets that just hold them the most was 16 MiB."""

Event = tuple[int, int]
"""What happens to a storage: its number, and its bytes; 0 when it is let go."""


def segment(nbytes: int) -> int:
    """Return the bytes of the segment that is made for a request where none has room."""
    if nbytes <= _SMALL:
        return _SMALL_SEGMENT * (nbytes > 0)
    return LARGE_SEGMENT if nbytes < _OWN else -(-nbytes // _ROUND_OWN) * _ROUND_OWN


class _Block:
    """A part of a segment."""

    __slots__ = ("after", "before", "first", "free", "nbytes", "small")

    def __init__(self, first: int, nbytes: int, *, small: bool) -> None:
        self.first, self.nbytes, self.small, self.free = first, nbytes, small, False
        self.before: _Block | None = None
        self.after: _Block | None = None


class _FullError(Exception):
    """The limit is reached."""


class _Segments:
    """The allocator of one device; the driver gives memory at addresses that ascend, or ``descend``."""

    def __init__(self, limit: int | None = None, *, descend: bool = False) -> None:
        self.reserved = self.highest = 0
        self._limit, self._end, self._descend = limit, 0, descend
        self._free: tuple[list[tuple[int, int, _Block]], ...] = ([], [])

    def take(self, nbytes: int) -> _Block:
        """Return a block for a request; raises `_FullError`."""
        size = -(-nbytes // ROUND) * ROUND
        small = size <= _SMALL
        pool = self._free[small]
        at = bisect_left(pool, (size, -_ANYWHERE))
        block = pool.pop(at)[2] if at < len(pool) else self._segment(size, small=small)
        block.free = False
        self._split(block, size)
        return block

    def give(self, block: _Block) -> None:
        """Take a block back and join it with what is free beside it."""
        for other in (block.before, block.after):
            if other is None or not other.free:
                continue
            self._forget(other)
            block.nbytes += other.nbytes
            if other is block.before:
                block.first = other.first
                block.before = other.before
                if block.before is not None:
                    block.before.after = block
            else:
                block.after = other.after
                if block.after is not None:
                    block.after.before = block
        self._keep(block)

    def _segment(self, size: int, *, small: bool) -> _Block:
        nbytes = segment(size)
        if self._limit is not None and self.reserved + nbytes > self._limit:
            self._release()
            if self.reserved + nbytes > self._limit:
                raise _FullError
        self.reserved += nbytes
        self.highest = max(self.highest, self.reserved)
        self._end += nbytes
        return _Block(-self._end if self._descend else self._end - nbytes, nbytes, small=small)

    def _split(self, block: _Block, size: int) -> None:
        left = block.nbytes - size
        if left < ROUND or (not block.small and left <= _SMALL):
            return
        rest = _Block(block.first + size, left, small=block.small)
        rest.before, rest.after = block, block.after
        if rest.after is not None:
            rest.after.before = rest
        block.after, block.nbytes = rest, size
        self._keep(rest)

    def _release(self) -> None:
        """Give back what is free as a whole."""
        for pool in self._free:
            whole = [each for each in pool if each[2].before is None and each[2].after is None]
            self.reserved -= sum(each[0] for each in whole)
            for each in whole:
                pool.remove(each)

    def _keep(self, block: _Block) -> None:
        block.free = True
        insort(self._free[block.small], (block.nbytes, block.first, block))

    def _forget(self, block: _Block) -> None:
        pool = self._free[block.small]
        pool.pop(bisect_left(pool, (block.nbytes, block.first)))


def beyond(weights: Sequence[int], runs: Sequence[Sequence[Event]]) -> int:
    """Return the bytes a device must have beyond what is asked for at once in these runs, one at a time.

    Everything is on one device; where that has no room to spare the allocator gives free segments back. Which
    addresses the driver gives decides between blocks of one size: the order that needs more counts.
    """
    asked = sum(weights) + max(map(most_alive, runs), default=0)
    needs = (least(weights, run, descend=descend) for run in runs for descend in (False, True))
    return max(0, max(needs, default=0) - asked)


def beyond_weights(weights: Sequence[int], beside: int) -> int:
    """Return what is held beyond weights and so many bytes ``beside`` that nobody saw come and go.

    These are played as one request; a segment stands for their order.
    """
    return (most_reserved(weights, [(0, beside)]) or 0) - sum(weights) - beside + LARGE_SEGMENT


def most_alive(events: Sequence[Event]) -> int:
    """Return the most bytes that are there at once, in whole requests."""
    sizes, now, most = dict[int, int](), 0, 0
    for root, nbytes in events:
        size = -(-nbytes // ROUND) * ROUND
        now += size - (0 if size else sizes[root])
        sizes[root] = size
        most = max(most, now)
    return most


def least(weights: Sequence[int], events: Sequence[Event], *, descend: bool = False) -> int:
    """Return the least limit from which on everything finds its place, to `EXACT` bytes.

    A lower limit may do where a higher one does not: what is given back earlier leaves other holes. So it is
    looked for from above, and below the first that fails nothing is believed.
    """
    high = most_reserved(weights, events, descend=descend) or 0
    low = sum(weights) + most_alive(events)
    step = max(EXACT, (high - low) // _STEPS)
    while high - step >= low and most_reserved(weights, events, high - step, descend=descend) is not None:
        high -= step
    low = max(low, high - step)
    while high - low > EXACT:
        middle = (low + high) // 2
        if most_reserved(weights, events, middle, descend=descend) is None:
            low = middle
        else:
            high = middle
    return high


def most_reserved(
    weights: Sequence[int], events: Sequence[Event], limit: int | None = None, *, descend: bool = False
) -> int | None:
    """Return the most that is reserved, None where the limit is too low."""
    try:
        return _run(weights, events, limit, descend=descend).highest
    except _FullError:
        return None


def _run(weights: Sequence[int], events: Sequence[Event], limit: int | None, *, descend: bool) -> _Segments:
    """Play requests; raises `_FullError`."""
    segments, blocks = _Segments(limit, descend=descend), dict[int, _Block]()
    for nbytes in weights:
        segments.take(nbytes)
    for root, nbytes in events:
        if nbytes:
            blocks[root] = segments.take(nbytes)
        else:
            segments.give(blocks.pop(root))
    return segments

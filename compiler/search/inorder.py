"""In-order packing, exact: contiguous segments of the atoms, devices in any order.

A dynamic program over sets of devices: how far can this set reach? Equal devices are one kind, so
eight equal cards are nine states, not 256. Reaching is monotone in the capacities, therefore every
minimax objective is a bisection on top.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise, product
from math import inf, prod
from typing import Final, TypeAlias

from .problem import Place, Problem

MAX_STATES: Final = 4096
State: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class OrderedAtoms:
    """Atoms in order with what the program asks of them: range sums, range maxima, next ban."""

    prefix: tuple[int, ...]
    peaks: tuple[int, ...] | None
    bans: tuple[tuple[int, ...], ...]
    """By device, the sorted positions it must not hold."""
    clocks: tuple[tuple[float, ...], ...] = ()
    """By device, the seconds of all atoms before each position; equally fast devices share one object."""
    seconds: float = inf
    """The longest a device may take."""

    def __len__(self) -> int:
        return len(self.prefix) - 1

    def extend(self, start: int, device: int, capacity: int, peak: int) -> int:
        """Return how far a segment from ``start`` on ``device`` reaches; ``peak`` is there already."""
        if capacity < 0:
            return start
        stop = bisect_right(self.prefix, self.prefix[start] + capacity) - 1
        if self.clocks:
            clock = self.clocks[device]
            stop = min(stop, bisect_right(clock, clock[start] + self.seconds) - 1)
        if banned := self.bans[device]:
            at = bisect_left(banned, start)
            stop = min(stop, banned[at]) if at < len(banned) else stop
        return stop if self.peaks is None else self._within_peak(start, stop, capacity, peak)

    def _within_peak(self, start: int, stop: int, capacity: int, peak: int) -> int:
        highest, peaks = peak, self.peaks or ()
        for position in range(start, stop):
            highest = max(highest, peaks[position])
            if self.prefix[position + 1] - self.prefix[start] + highest - peak > capacity:
                return position
        return stop


@dataclass(frozen=True, slots=True)
class Segments:
    """A packing: devices in the order of their segments, and where each segment ends."""

    devices: tuple[int, ...]
    stops: tuple[int, ...]

    def places(self) -> list[Place]:
        """Return the place of every atom."""
        found: list[Place] = []
        for device, stop in zip(self.devices, self.stops, strict=True):
            found += [Place(device, device)] * (stop - len(found))
        return found


def line_of(problem: Problem) -> OrderedAtoms:
    """Return the atoms of a problem as a line."""
    peaks = tuple(atom.peak for atom in problem.atoms)
    bans = tuple(
        tuple(i for i, atom in enumerate(problem.atoms) if d in atom.banned)
        for d in range(len(problem.devices))
    )
    prefix = tuple(accumulate((atom.cost for atom in problem.atoms), initial=0))
    return OrderedAtoms(prefix, peaks if any(peaks) else None, bans)


def is_packable(problem: Problem) -> bool:
    """Say whether the program decides the problem: no two accelerators share a memory."""
    mains = set(problem.accelerators)
    return bool(mains) and all(len(mains.intersection(pool.members)) < 2 for pool in problem.pools)


def room_in_order(problem: Problem, device: int) -> int:
    """Return what one accelerator may take, its pool respected."""
    pools = [pool.room for pool in problem.pools if device in pool.members]
    return min([problem.rooms[device], *pools])


def packings(problem: Problem, line: OrderedAtoms, capacities: Sequence[int]) -> Iterator[Segments]:
    """Yield a packing of everything for each minimal set of devices that can hold it, smallest first."""
    kinds = _kinds(problem, line, capacities)
    if prod(len(kind) + 1 for kind in kinds) > MAX_STATES:
        yield from _by_size(problem, line, capacities)
        return
    reach, last = {(0,) * len(kinds): 0}, dict[State, int]()
    peaks = problem.peaks or (0,) * len(problem.devices)
    done: list[State] = []
    for state, befores in _walk(tuple(map(len, kinds))):
        if done and any(all(a <= b for a, b in zip(smaller, state, strict=True)) for smaller in done):
            continue
        best = (-1, -1)
        for kind, before in befores:  # a kind that comes last, and what is used before it
            device = kinds[kind][before[kind]]
            start = reach.get(before)
            if start is not None:
                best = max(best, (line.extend(start, device, capacities[device], peaks[device]), kind))
        if befores:
            reach[state], last[state] = best
        if reach[state] == len(line):
            done.append(state)
            yield _unwind(kinds, reach, last, state)


@lru_cache(maxsize=8)
def _walk(most: State) -> tuple[tuple[State, tuple[tuple[int, State], ...]], ...]:
    """Return every set of devices, the smaller first, each with the sets that lack one device of a kind."""
    counts = product(*(range(count + 1) for count in most))
    ordered = sorted(counts, key=lambda state: (sum(state), [-count for count in state]))
    return tuple(
        (state, tuple((k, (*state[:k], n - 1, *state[k + 1 :])) for k, n in enumerate(state) if n))
        for state in ordered
    )


def _kinds(problem: Problem, line: OrderedAtoms, capacities: Sequence[int]) -> list[list[int]]:
    found: dict[tuple[object, ...], list[int]] = {}
    for device in problem.accelerators:
        peak = problem.peaks[device] if problem.peaks else 0
        clock = id(line.clocks[device]) if line.clocks else 0
        found.setdefault((capacities[device], peak, line.bans[device], clock), []).append(device)
    return list(found.values())


def _unwind(
    kinds: list[list[int]], reach: dict[State, int], last: dict[State, int], state: State
) -> Segments:
    order: list[int] = []
    stops: list[int] = []
    while sum(state):
        kind = last[state]
        order.append(kind)
        stops.append(reach[state])
        state = (*state[:kind], state[kind] - 1, *state[kind + 1 :])
    remaining = [iter(kind) for kind in kinds]
    return Segments(tuple(next(remaining[kind]) for kind in reversed(order)), tuple(reversed(stops)))


def _by_size(problem: Problem, line: OrderedAtoms, capacities: Sequence[int]) -> Iterator[Segments]:
    """Many different devices: try the given order and the larger first, not every order."""
    mains = problem.accelerators
    for order in (mains, tuple(sorted(mains, key=lambda d: (-capacities[d], d)))):
        position, stops = 0, list[int]()
        for device in order:
            peak = problem.peaks[device] if problem.peaks else 0
            position = line.extend(position, device, capacities[device], peak)
            stops.append(position)
            if position == len(line):
                yield Segments(order[: len(stops)], tuple(stops))
                break


def fill(
    problem: Problem, line: OrderedAtoms, capacities: Sequence[int], order: tuple[int, ...]
) -> Iterator[list[Place]]:
    """Yield what devices in this order hold, filled from the front and from the back, if everything."""
    size = len(line)
    backwards = OrderedAtoms(
        tuple(accumulate((b - a for a, b in pairwise(reversed([-p for p in line.prefix]))), initial=0)),
        None if line.peaks is None else line.peaks[::-1],
        tuple(tuple(size - 1 - i for i in reversed(banned)) for banned in line.bans),
    )
    for way, devices in ((line, order), (backwards, order[::-1])):
        places: list[Place] = []
        for device in devices:
            peak = problem.peaks[device] if problem.peaks else 0
            stop = way.extend(len(places), device, capacities[device], peak)
            places += [Place(device, device)] * (stop - len(places))
        if len(places) == size:
            yield places if way is line else places[::-1]


def minimax(
    problem: Problem, limits_at: Callable[[float], tuple[OrderedAtoms, Sequence[int]]], high: float
) -> tuple[float, Segments] | None:
    """Return the least level whose limits admit everything, with its packing on the fewest devices.

    ``limits_at`` gives line and capacities of a level, none tighter as it rises; ``high`` is the highest.
    """
    best = next(packings(problem, *limits_at(high)), None)
    if best is None:
        return None
    low = 0.0
    for _ in range(50):
        middle = (low + high) / 2
        found = next(packings(problem, *limits_at(middle)), None)
        if found is None:
            low = middle
        else:
            high, best = middle, found
        if high - low <= 1e-9 * max(high, 1e-30):
            break
    return high, best

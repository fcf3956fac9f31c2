"""Exact counts without a solver, where few kinds of atoms meet one or two accelerators.

Most models are one stack of equal layers and a handful of other parts. Every way to place the handful
is tried, and how many of the layers then stay is a division. What is larger is left to the solver,
whose import alone takes longer than this.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from math import comb, prod
from typing import Final, TypeAlias

from .arrange import arrange, longest_cluster
from .formulate import Group, groups_of, legal_places
from .outoforder import Counts
from .problem import UNLIMITED, Place, Problem, count_hops

MAX_TRIED: Final = 20_000
MAX_EQUALS: Final = 16
MAX_KINDS: Final = 10
Entry: TypeAlias = dict[Place, int]


def most_bytes_of_few(problem: Problem, policy: str) -> Counts | None:
    """Return the counts that keep the most bytes on accelerators; None if they are not few or not legal.

    Of those that keep as many, the ones with the fewest changes of device, and then of clusters.
    """
    few = _few(problem, policy)
    if few is None:
        return None
    most, equals = -1, list[tuple[Entry, ...]]()
    for table in few.tables():
        kept = few.kept(table)
        if kept > most:
            most, equals = kept, []
        if kept == most and len(equals) < MAX_EQUALS:
            equals.append(table)
    found = [Counts(few.groups, table, most, proven=True) for table in equals]
    return min(found, key=lambda counts: _unrest(problem, counts), default=None)


def least_extra_of_few(problem: Problem, device: int) -> int | None:
    """Return the bytes an accelerator lacks for all to stay on accelerators; None if that is not counted."""
    rooms = tuple(UNLIMITED if d == device else room for d, room in enumerate(problem.rooms))
    few = _few(replace(problem, rooms=rooms), "none")
    if few is None or device not in few.problem.accelerators:
        return None
    few = replace(few, last=device)
    needs = (UNLIMITED - few.spaces(table)[device].left for table in few.tables())
    need = min(needs, default=None)
    return None if need is None else max(0, need - problem.rooms[device])


def _unrest(problem: Problem, counts: Counts) -> tuple[int, int]:
    places = arrange(problem, counts, by_run=False)
    return count_hops(problem, places), longest_cluster(places)


@dataclass(slots=True)
class _Space:
    """What is left of an accelerator, and what of it is bought already."""

    left: int
    peak: int
    buffer: int

    def add(self, group: Group, resident: int, streamed: int) -> None:
        """Run so many members here."""
        atom = group.atom
        self.left -= resident * atom.weight + (resident + streamed) * atom.demand
        if resident or streamed:
            self.left -= max(0, atom.peak - self.peak)
            self.peak = max(self.peak, atom.peak)
        if streamed:
            self.left -= max(0, atom.stream - self.buffer)
            self.buffer = max(self.buffer, atom.stream)

    def residents(self, group: Group, running: int, *, streams: bool) -> int | None:
        """Return how many of those that run here can stay here; None if they cannot run here."""
        atom, left = group.atom, self.left
        if running:
            left -= max(0, atom.peak - self.peak) + running * atom.demand
        if streams:
            left -= max(0, atom.stream - self.buffer)
        if left < 0:
            return None
        stay = min(running, left // atom.weight) if atom.weight else running
        return stay if streams or stay == running else None


@dataclass(frozen=True, slots=True)
class _Few:
    """A problem small enough to be counted through: the largest group comes last."""

    problem: Problem
    groups: tuple[Group, ...]
    places: tuple[tuple[Place, ...], ...]
    last: int = -1
    """The device that is filled last."""

    def tables(self) -> Iterator[tuple[Entry, ...]]:
        """Yield legal tables; one that keeps the most bytes is among them."""
        rest = zip(self.groups[:-1], self.places[:-1], strict=True)
        ways = [list(_shares(len(group.members), places)) for group, places in rest]
        for entries in product(*ways):
            spaces = self.spaces(entries)
            if all(space.left >= 0 for space in spaces.values()):
                for entry in self._last(spaces):
                    yield *entries, entry

    def kept(self, table: tuple[Entry, ...]) -> int:
        """Return the bytes a table keeps on accelerators."""
        return sum(
            group.atom.weight * sum(count for place, count in entry.items() if not place.streamed)
            for group, entry in zip(self.groups, table, strict=True)
        )

    def spaces(self, entries: tuple[Entry, ...]) -> dict[int, _Space]:
        """Return what is left of each accelerator when the first groups are placed."""
        problem = self.problem
        zero = (0,) * len(problem.devices)
        peaks, buffers = problem.peaks or zero, problem.buffers or zero
        spaces = {d: _Space(problem.rooms[d], peaks[d], buffers[d]) for d in problem.accelerators}
        for group, entry in zip(self.groups, entries, strict=False):
            for place, count in entry.items():
                spaces[place.run].add(group, *((0, count) if place.streamed else (count, 0)))
        return spaces

    def _last(self, spaces: dict[int, _Space]) -> Iterator[Entry]:
        """Yield the entries of the last group that keep the most of it, for each choice of streaming."""
        group, places = self.groups[-1], self.places[-1]
        stored = {place.run: place for place in places if not place.streamed}
        streamed = {place.run: place for place in places if place.streamed}
        devices = sorted({place.run for place in places}, key=lambda device: (device == self.last, device))
        for choice in product(*((False, True) if d in streamed else (False,) for d in devices)):
            best, entry = -1, Entry()
            for shares in _running(len(group.members), len(devices)):
                stays: list[int] = []
                for device, share, streams in zip(devices, shares, choice, strict=True):
                    stay = spaces[device].residents(group, share, streams=streams)
                    if stay is None:
                        break
                    stays.append(stay)
                else:
                    if sum(stays) > best:
                        best = sum(stays)
                        entry = {stored[d]: stay for d, stay in zip(devices, stays, strict=True) if stay}
                        moving = zip(devices, shares, stays, strict=True)
                        entry |= {streamed[d]: share - stay for d, share, stay in moving if share > stay}
            if best >= 0:
                yield entry


def _few(problem: Problem, policy: str) -> _Few | None:
    """Return a problem that can be counted through, and that one host could hold; else None."""
    mains, groups = problem.accelerators, groups_of(problem)
    if (
        len(problem.cpus) > 1
        or problem.pools
        or problem.phases
        or not 1 <= len(mains) <= 2
        or not 1 <= len(groups) <= MAX_KINDS
    ):
        return None
    weight = sum(atom.weight for atom in problem.atoms)
    host = next((d for d in problem.hosts if problem.rooms[d] >= weight), None)
    ordered = tuple(sorted(groups, key=lambda group: len(group.members)))
    places: list[tuple[Place, ...]] = []
    for group in ordered:
        legal = legal_places(problem, group.atom, policy)
        if any(place.run not in mains for place in legal) or (policy != "none" and host is None):
            return None
        places.append(tuple(place for place in legal if place.store in mains or place.store == host))
    counts = [len(group.members) for group in ordered]
    tried = prod(comb(n + len(p) - 1, len(p) - 1) for n, p in zip(counts[:-1], places[:-1], strict=True) if p)
    each = 2 ** len(mains) * (1 if len(mains) == 1 else counts[-1] + 1)
    return _Few(problem, ordered, tuple(places)) if all(places) and tried * each <= MAX_TRIED else None


def _shares(count: int, places: tuple[Place, ...]) -> Iterator[Entry]:
    """Yield all ways to spread so many members over places."""
    first, *others = places
    if not others:
        yield {first: count} if count else {}
        return
    for here in range(count, -1, -1):
        for rest in _shares(count - here, tuple(others)):
            yield {first: here, **rest} if here else rest


def _running(count: int, devices: int) -> Iterator[tuple[int, ...]]:
    """Yield how many members run on each of one or two devices, the first one fuller first."""
    if devices == 1:
        yield (count,)
    else:
        yield from ((here, count - here) for here in range(count, -1, -1))

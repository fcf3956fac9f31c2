"""The placement problem as plain numbers: devices with room, atoms with bytes.

Everything the packers see is here; they know nothing of modules, so they can be tested and used
on their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, NamedTuple

from ...ir import CPU, DISK, Device, Link, device_type, host_of, is_accelerator
from ..placing.in_phases import ALWAYS
from ..placing.terms import Pool
from .efforts import Effort
from .uses import InUse

UNLIMITED: Final = 2**62
NEVER: Final = 2 * UNLIMITED
"""Bytes of an atom that no streaming buffer can hold: it is never streamed."""


class Place(NamedTuple):
    """Where an atom is: device indices of its bytes and of its computation."""

    store: int
    run: int

    @property
    def streamed(self) -> bool:
        """Say whether the bytes travel to where they are used."""
        return self.store != self.run


@dataclass(frozen=True, slots=True)
class Atom:
    """What must be placed as one: one grain, or several that share storage or belong together."""

    grains: tuple[int, ...]
    """Its grains in execution order."""
    weight: int
    """Bytes on the device that stores it."""
    demand: int = 0
    """Bytes that add up on the device that runs it (KV cache)."""
    peak: int = 0
    """Bytes of which the device that runs it needs the largest of its atoms' only (activations)."""
    stream: int = 0
    """Bytes of its largest grain: what a streaming buffer must hold."""
    banned: frozenset[int] = frozenset()
    """Devices that may neither store nor run it."""
    effort: Effort | None = None
    """What a token costs, if it was measured."""
    phase: int = ALWAYS
    """The phase in which its demand, its peak and its buffer are there."""
    rows: bool = False
    """Whether only the rows that a call needs travel when it is streamed."""

    kind: tuple[object, ...] = field(init=False, repr=False, compare=False)
    """What makes two atoms interchangeable."""

    def __post_init__(self) -> None:
        """Work out the kind once: it is asked for far more often than atoms are made."""
        sizes = (self.weight, self.demand, self.peak, self.stream)
        object.__setattr__(self, "kind", (*sizes, self.banned, self.effort, self.rows, self.phase))

    @property
    def cost(self) -> int:
        """Bytes it adds to a device that both stores and runs it, its peak left aside."""
        return self.weight + self.demand


class Handover(NamedTuple):
    """A tensor that goes from the grain that makes it to grains that take it."""

    source: int
    targets: tuple[int, ...]
    nbytes: float
    """Bytes for each token."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is to be placed where."""

    devices: tuple[Device, ...]
    rooms: tuple[int, ...]
    """Free bytes by device, after margins, reserves and pins."""
    atoms: tuple[Atom, ...]
    pools: tuple[Pool, ...] = ()
    peaks: tuple[int, ...] = ()
    """Activation bytes already counted on each device, because of pins."""
    buffers: tuple[int, ...] = ()
    """Streaming buffers already counted on each device, because of pins."""
    fixed: dict[int, Place] = field(default_factory=dict[int, Place])
    """Places of pinned grains."""
    pinned: tuple[tuple[Atom, Place], ...] = ()
    """What is pinned, as atoms, with its places: it takes time as the rest does."""
    row: int = 0
    """Bytes of one token's hidden state: what a change of device moves."""
    links: tuple[Link, ...] = ()
    """Roads between two devices that are better, or worse, than the one over the host."""
    dtype: str = ""
    """What most of the bytes are."""
    visited_from: dict[int, int] = field(default_factory=dict[int, int])
    """By grain of a part that may be visited, a grain of what it is visited from."""
    handovers: tuple[Handover, ...] = ()
    """What grains hand each other, if a trace told; else each hands a token's hidden state to the next."""
    caches: tuple[int, ...] = ()
    """Bytes by device that hold rows used last; a line keeps them, or the search does what it has left."""

    layers: tuple[int, ...] = ()
    """By grain a number of the layer it is part of, negative for those of none."""
    phases: int = 0
    """How many phases its atoms have; each device must hold what is in use in any one of them."""

    @property
    def total(self) -> int:
        """Bytes of all free atoms, stored and run on one device."""
        return sum(atom.cost for atom in self.atoms)

    @property
    def accelerators(self) -> tuple[int, ...]:
        """Indices of the devices that should hold the model: accelerators with room, else the CPU."""
        found = tuple(i for i, d in enumerate(self.devices) if is_accelerator(d.name) and self.rooms[i] > 0)
        return found or tuple(i for i, d in enumerate(self.devices) if device_type(d.name) == CPU)

    @property
    def hosts(self) -> tuple[int, ...]:
        """Indices of the devices that hold what does not fit, the faster first."""
        rest = [i for i, d in enumerate(self.devices) if not is_accelerator(d.name)]
        ordered = sorted(rest, key=lambda i: device_type(self.devices[i].name) == DISK)
        return tuple(i for i in ordered if i not in self.accelerators)

    def cpu_beside(self, device: int) -> int | None:
        """Return the index of the CPU on the host of a device, if it is listed."""
        return next((d for d in self.cpus if self.beside(d, device)), None)

    def beside(self, first: int, second: int) -> bool:
        """Say whether two devices are on one host: bytes of weights never cross a network."""
        return host_of(self.devices[first].name) == host_of(self.devices[second].name)

    @property
    def cpus(self) -> tuple[int, ...]:
        """Indices of the CPUs, one of each host."""
        return tuple(i for i, d in enumerate(self.devices) if device_type(d.name) == CPU)

    @property
    def cpu(self) -> int | None:
        """Index of the CPU, if it is listed."""
        return next(iter(self.cpus), None)


def usage(problem: Problem, places: list[Place]) -> list[int]:
    """Return the bytes a placement of the free atoms takes of each device's room."""
    return _counted(problem, places)[0]


def _counted(problem: Problem, places: list[Place]) -> tuple[list[int], list[InUse]]:
    """Return by device the bytes a placement takes of its room, and what of them is no weight."""
    used, uses = [0] * len(problem.devices), uses_of(problem)
    for atom, (store, run) in zip(problem.atoms, places, strict=True):
        used[store] += atom.weight
        if store != run or atom.demand or atom.peak:  # most atoms are weights alone
            uses[run].take(atom, streamed=store != run)
    return [load + use.nbytes() for load, use in zip(used, uses, strict=True)], uses


def uses_of(problem: Problem) -> list[InUse]:
    """Return by device what is needed beside weights, before any atom is placed."""
    zero = (0,) * len(problem.devices)
    rows = zip(problem.peaks or zero, problem.buffers or zero, strict=True)
    return [InUse(problem.phases, peak, buffer) for peak, buffer in rows]


def changes_of(problem: Problem, places: Sequence[Place]) -> Iterator[tuple[int, int]]:
    """Yield every change of device between consecutive grains: the one left, the one entered.

    A part is visited from the home of its module: its results come back before the next part runs.
    """
    runs = {grain: place.run for grain, place in problem.fixed.items()}
    for atom, place in zip(problem.atoms, places, strict=True):
        for grain in atom.grains:
            runs[grain] = place.run
    for here, there in pairwise(runs[grain] for grain in way_through(problem, runs)):
        if here != there:
            yield here, there


def way_through(problem: Problem, grains: Iterable[int]) -> Iterator[int]:
    """Yield grains in the order a call meets them: what is visited between its home and its home again."""
    homes = problem.visited_from
    for grain in sorted(grains):
        home = homes.get(grain, grain)
        yield from (home, grain, home)


def count_hops(problem: Problem, places: Sequence[Place]) -> int:
    """Return how often consecutive grains run on different devices."""
    return sum(1 for _ in changes_of(problem, places))


def is_legal(problem: Problem, places: list[Place]) -> bool:
    """Say whether a placement keeps every budget, pool and ban, to the byte."""
    used = usage(problem, places)
    if any(load > max(room, 0) for load, room in zip(used, problem.rooms, strict=True)):
        return False
    if any(sum(used[d] for d in pool.members) > max(pool.room, 0) for pool in problem.pools):
        return False
    pairs = zip(problem.atoms, places, strict=True)
    return not any(atom.banned and not atom.banned.isdisjoint(place) for atom, place in pairs)


class Loads:
    """A placement that atoms move about in one by one, its loads kept up to date.

    Begun with too much on a device, it takes nothing more there until enough has left. Peaks and buffers
    only grow, so a move may be refused that a fresh count would allow, never the other way round.
    """

    def __init__(self, problem: Problem, places: list[Place]) -> None:
        self.problem, self.places = problem, list(places)
        self.used, self._uses = _counted(problem, self.places)

    def move(self, index: int, place: Place) -> bool:
        """Move an atom if every budget and ban holds afterwards; say whether it moved."""
        atom, before = self.problem.atoms[index], self.places[index]
        if not atom.banned.isdisjoint(place):
            return False
        if (
            place.store not in before
            and 0 < atom.weight > self.problem.rooms[place.store] - self.used[place.store]
        ):
            return False  # most moves that are tried fail like this
        change = dict.fromkeys((*place, *before), 0)
        change[place.store] += atom.weight
        change[before.store] -= atom.weight
        uses = {device: self._uses[device].copy() for device in {place.run, before.run}}
        uses[before.run].give_back(atom)
        uses[place.run].take(atom, streamed=place.streamed)
        for device, use in uses.items():
            change[device] += use.nbytes() - self._uses[device].nbytes()
        if not self._fits(change):
            return False
        for device, nbytes in change.items():
            self.used[device] += nbytes
        for device, use in uses.items():
            self._uses[device] = use
        self.places[index] = place
        return True

    def _fits(self, change: dict[int, int]) -> bool:
        if any(n > 0 and self.used[d] + n > self.problem.rooms[d] for d, n in change.items()):
            return False
        return all(
            sum(self.used[d] + change.get(d, 0) for d in pool.members) <= pool.room
            for pool in self.problem.pools
            if sum(change.get(d, 0) for d in pool.members) > 0
        )


def twins(problem: Problem, first: int, second: int) -> bool:
    """Say whether two devices have the same room and the same atoms may be on them."""

    def seen(device: int) -> tuple[object, ...]:
        return (
            problem.rooms[device],
            problem.peaks[device] if problem.peaks else 0,
            problem.buffers[device] if problem.buffers else 0,
            tuple(device in atom.banned for atom in problem.atoms),
        )

    return seen(first) == seen(second)

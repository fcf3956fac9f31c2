"""A placement of groups written as an integer program: columns are counts, rows are budgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import gcd
from typing import Final

from ..placing.in_phases import ALWAYS
from .highs import Program
from .problem import NEVER, UNLIMITED, Atom, Place, Problem, twins
from .speeds import speeds

EXACT_UNITS: Final = 2_000_000


@dataclass(frozen=True, slots=True)
class Group:
    """Atoms that are alike: all of a kind, or consecutive ones."""

    atom: Atom
    members: tuple[int, ...]
    """Positions in the problem's atoms."""


def groups_of(problem: Problem) -> tuple[Group, ...]:
    """Group all atoms that are alike."""
    found: dict[object, list[int]] = {}
    for index, atom in enumerate(problem.atoms):
        found.setdefault(atom.kind, []).append(index)
    return tuple(Group(problem.atoms[members[0]], tuple(members)) for members in found.values())


def runs_of(problem: Problem) -> tuple[Group, ...]:
    """Group consecutive atoms that are alike."""
    runs: list[list[int]] = []
    for index, atom in enumerate(problem.atoms):
        if runs and problem.atoms[runs[-1][0]].kind == atom.kind:
            runs[-1].append(index)
        else:
            runs.append([index])
    return tuple(Group(problem.atoms[run[0]], tuple(run)) for run in runs)


def legal_places(problem: Problem, atom: Atom, policy: str) -> tuple[Place, ...]:
    """Return where an atom may be under an offload policy.

    What cannot be streamed through any accelerator, because of its size or a rule, is computed where it is
    stored; under ``strictly stream`` only if it can be kept on none either.
    """
    mains = problem.accelerators
    resident = [Place(d, d) for d in mains if d not in atom.banned]
    pairs = [(h, d) for h in problem.hosts for d in mains if problem.beside(h, d)]
    streamed = [Place(h, d) for h, d in pairs if _can_stream(problem, atom, d)]
    streamed = [place for place in streamed if _may(atom, place)]
    cpus = [(h, problem.cpu_beside(h)) for h in problem.hosts]
    computed = [Place(h, cpu) for h, cpu in cpus if cpu is not None]
    computed = [place for place in computed if _may(atom, place)]
    match policy:
        case "none":
            offloaded: list[Place] = []
        case "compute":
            offloaded = computed or streamed
        case "any":
            offloaded = streamed + [place for place in computed if place not in streamed]
        case "strictly stream" if any(_can_stay(problem, atom, place.run) for place in resident):
            offloaded = streamed
        case _:
            offloaded = streamed or computed
    return tuple(resident + offloaded)


def _may(atom: Atom, place: Place) -> bool:
    """Say whether rules allow an atom off the accelerators at a place; a disk streams to the CPU, too."""
    return atom.banned.isdisjoint(place) and not (place.streamed and atom.stream >= NEVER)


def _can_stream(problem: Problem, atom: Atom, device: int) -> bool:
    buffer = max(0, atom.stream - (problem.buffers[device] if problem.buffers else 0))
    peak = max(0, atom.peak - (problem.peaks[device] if problem.peaks else 0))
    return device not in atom.banned and buffer + peak + atom.demand <= problem.rooms[device]


def _can_stay(problem: Problem, atom: Atom, device: int) -> bool:
    peak = max(0, atom.peak - (problem.peaks[device] if problem.peaks else 0))
    return peak + atom.cost <= problem.rooms[device]


def easings(policy: str) -> tuple[str, ...]:
    """Return a policy from its strictest meaning on: each is for where the one before admits nothing."""
    return ("strictly stream", "stream") if policy == "stream" else (policy,)


def _by_runner(columns: dict[Place, int], *, streamed: bool) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for place, column in columns.items():
        if place.streamed or not streamed:
            found.setdefault(place.run, []).append(column)
    return found


class Builder:
    """Writes a placement of groups as a program; amounts are in ``unit`` bytes."""

    def __init__(
        self, problem: Problem, groups: tuple[Group, ...], policy: str, relieved: int | None = None
    ) -> None:
        self.problem, self.groups, self.program = problem, groups, Program()
        self.unit, self.exact = _unit(problem)
        self.columns: list[dict[Place, int]] = []
        for group in groups:
            places = legal_places(problem, group.atom, policy)
            count = len(group.members)
            self.columns.append({p: self.program.column(upper=count) for p in places})
            self.program.equal(count, [(column, 1.0) for column in self.columns[-1].values()])
        self.loads: list[list[tuple[int, float]]] = [[] for _ in problem.devices]
        self._weights()
        self._in_use()
        if relieved is not None:
            extra = self.program.column(cost=1.0, upper=float("inf"), integer=False)
            self.loads[relieved].append((extra, -1.0))
        self._rooms()

    def amount(self, nbytes: int) -> float:
        """Return bytes in the program's unit."""
        return nbytes / self.unit

    def _weights(self) -> None:
        for group, columns in zip(self.groups, self.columns, strict=True):
            for place, column in columns.items():
                if group.atom.weight:
                    self.loads[place.store].append((column, self.amount(group.atom.weight)))

    def _in_use(self) -> None:
        """Charge each device what is in use there beside weights, in the phase in which it is most."""
        phases = range(self.problem.phases) if self.problem.phases else (ALWAYS,)
        uses = [self._use(phase) for phase in phases]
        for device, load in enumerate(self.loads):
            if len(uses) == 1:
                load.extend(uses[0][device])
            elif any(use[device] for use in uses):
                highest = self.program.column(upper=float("inf"), integer=False)
                load.append((highest, 1.0))
                for use in uses:
                    self.program.at_most(0.0, [(highest, -1.0), *use[device]])

    def _use(self, phase: int) -> list[list[tuple[int, float]]]:
        """Return by device the terms of one phase: demands, the largest peak and the largest buffer."""
        use: list[list[tuple[int, float]]] = [[] for _ in self.loads]
        for group, columns in zip(self.groups, self.columns, strict=True):
            for place, column in columns.items() if group.atom.phase in {phase, ALWAYS} else ():
                if group.atom.demand:
                    use[place.run].append((column, self.amount(group.atom.demand)))
        self._largest(use, phase, streamed=False)
        self._largest(use, phase, streamed=True)
        return use

    def _largest(self, use: list[list[tuple[int, float]]], phase: int, *, streamed: bool) -> None:
        """Charge each device the largest peak (or streaming buffer) of what runs there in a phase."""
        present = (self.problem.buffers if streamed else self.problem.peaks) or (0,) * len(self.loads)
        running = [_by_runner(columns, streamed=streamed) for columns in self.columns]
        for device, there in enumerate(present):
            level = -1
            for group, by_runner in zip(self.groups, running, strict=True):
                nbytes = group.atom.stream if streamed else group.atom.peak
                here = by_runner.get(device)
                if nbytes <= there or not here or group.atom.phase not in {phase, ALWAYS}:
                    continue
                if level < 0:
                    level = self.program.column(upper=float("inf"), integer=False)
                    use[device].append((level, 1.0))
                flag = self.program.column()
                count = float(len(group.members))
                self.program.at_most(0.0, [(flag, -count), *((c, 1.0) for c in here)])
                self.program.at_most(0.0, [(level, -1.0), (flag, self.amount(nbytes - there))])

    def _rooms(self) -> None:
        for device, room in enumerate(self.problem.rooms):
            if room < UNLIMITED and self.loads[device]:
                self.program.at_most(self._floor(room), self.loads[device])
        for pool in self.problem.pools:
            terms: dict[int, float] = {}
            for column, value in (term for d in pool.members for term in self.loads[d]):
                terms[column] = terms.get(column, 0.0) + value
            self.program.at_most(self._floor(pool.room), list(terms.items()))

    def _floor(self, room: int) -> float:
        return max(0, room) // self.exact * self.exact / self.unit

    def order_equal_devices(self) -> None:
        """Break the symmetry of interchangeable accelerators: the earlier holds no less."""
        problem, mains = self.problem, self.problem.accelerators
        pooled = {d for pool in problem.pools for d in pool.members}
        for first, second in pairwise(mains):
            if self._equal(first, second) and not pooled.intersection((first, second)):
                rest = [(column, -value) for column, value in self.loads[first]]
                self.program.at_most(0.0, [*self.loads[second], *rest])

    def _equal(self, first: int, second: int) -> bool:
        devices, dtype = self.problem.devices, self.problem.dtype
        as_fast = speeds(devices[first], dtype) == speeds(devices[second], dtype)
        return as_fast and twins(self.problem, first, second)

    def keep_bytes(self) -> list[tuple[int, float]]:
        """Return the terms that add up to the bytes on accelerators."""
        mains = set(self.problem.accelerators)
        return [
            (column, self.amount(group.atom.weight))
            for group, columns in zip(self.groups, self.columns, strict=True)
            for place, column in columns.items()
            if place.store in mains and group.atom.weight
        ]

    def table(self, values: Sequence[float]) -> tuple[dict[Place, int], ...]:
        """Return the counts of a solution."""
        return tuple(
            {place: round(values[column]) for place, column in columns.items() if round(values[column])}
            for columns in self.columns
        )


def _unit(problem: Problem) -> tuple[float, int]:
    """Return the program's unit in bytes, and the bytes all sizes are a multiple of."""
    exact = 0
    for atom in problem.atoms:
        exact = gcd(exact, atom.weight, atom.demand, atom.peak, atom.stream)
    exact = gcd(exact, *problem.peaks, *problem.buffers) or 1
    largest = max([room for room in problem.rooms if room < UNLIMITED], default=exact)
    return exact * max(1.0, largest / exact / EXACT_UNITS), exact

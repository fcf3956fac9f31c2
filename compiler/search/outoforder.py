"""Out-of-order placement through integer programming: how many of each kind go where.

Atoms that are alike are one integer, so eighty equal layers cost no more than two. The first
program keeps the most bytes on the accelerators, the second the order of the layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import gcd

from .highs import NODE_LIMIT, Program, solve
from .problem import UNLIMITED, Atom, Place, Problem

EXACT_UNITS = 2_000_000
MAX_HOP_COLUMNS = 3000


@dataclass(frozen=True, slots=True)
class Group:
    """Atoms that are alike: all of a kind, or consecutive ones."""

    atom: Atom
    members: tuple[int, ...]
    """Positions in the problem's atoms."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How many members of each group are at each place, and what the solver proved."""

    groups: tuple[Group, ...]
    table: tuple[dict[Place, int], ...]
    bound: int
    """No placement keeps more bytes on the accelerators."""
    proven: bool


def kinds_of(problem: Problem) -> tuple[Group, ...]:
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

    What is too large to be streamed through any accelerator is computed where it is stored.
    """
    mains, cpu = problem.accelerators, problem.cpu
    resident = [Place(d, d) for d in mains]
    streamed = [Place(h, d) for h in problem.hosts for d in mains if _can_stream(problem, atom, d)]
    computed = [Place(h, cpu) for h in problem.hosts if cpu is not None]
    match policy:
        case "none":
            offloaded: list[Place] = []
        case "compute":
            offloaded = computed or streamed
        case "any":
            offloaded = streamed + [place for place in computed if place not in streamed]
        case _:
            offloaded = streamed or computed
    return tuple(p for p in resident + offloaded if atom.banned.isdisjoint(p))


def _can_stream(problem: Problem, atom: Atom, device: int) -> bool:
    buffer = max(0, atom.stream - (problem.buffers[device] if problem.buffers else 0))
    peak = max(0, atom.peak - (problem.peaks[device] if problem.peaks else 0))
    return device not in atom.banned and buffer + peak + atom.demand <= problem.rooms[device]


class _Builder:
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
        self._largest(streamed=False)
        self._largest(streamed=True)
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
                if group.atom.demand:
                    self.loads[place.run].append((column, self.amount(group.atom.demand)))

    def _largest(self, *, streamed: bool) -> None:
        """Charge each device the largest peak (or streaming buffer) of what runs there."""
        present = (self.problem.buffers if streamed else self.problem.peaks) or (0,) * len(self.loads)
        for device, there in enumerate(present):
            level = -1
            for group, columns in zip(self.groups, self.columns, strict=True):
                nbytes = group.atom.stream if streamed else group.atom.peak
                here = [c for p, c in columns.items() if p.run == device and (p.streamed or not streamed)]
                if nbytes <= there or not here:
                    continue
                if level < 0:
                    level = self.program.column(upper=float("inf"), integer=False)
                    self.loads[device].append((level, 1.0))
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
            if _twins(problem, first, second) and not pooled.intersection((first, second)):
                rest = [(column, -value) for column, value in self.loads[first]]
                self.program.at_most(0.0, [*self.loads[second], *rest])

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


def _twins(problem: Problem, first: int, second: int) -> bool:
    def seen(device: int) -> tuple[object, ...]:
        return (
            problem.rooms[device],
            problem.peaks[device] if problem.peaks else 0,
            problem.buffers[device] if problem.buffers else 0,
            tuple(device in atom.banned for atom in problem.atoms),
        )

    return seen(first) == seen(second)


def _unit(problem: Problem) -> tuple[float, int]:
    """Return the program's unit in bytes, and the bytes all sizes are a multiple of."""
    exact = 0
    for atom in problem.atoms:
        exact = gcd(exact, atom.weight, atom.demand, atom.peak, atom.stream)
    exact = gcd(exact, *problem.peaks, *problem.buffers) or 1
    largest = max([room for room in problem.rooms if room < UNLIMITED], default=exact)
    return exact * max(1.0, largest / exact / EXACT_UNITS), exact


def most_bytes(problem: Problem, policy: str, seconds: float) -> Counts | None:
    """Return the counts that keep the most bytes on accelerators; None when nothing is legal."""
    groups = kinds_of(problem)
    tightened, bound = problem, sum(atom.weight for atom in problem.atoms)
    for attempt in range(5):
        builder = _Builder(tightened, groups, policy)
        builder.order_equal_devices()
        kept = builder.keep_bytes()
        for column, value in kept:
            builder.program.costs[column] = -value
        gap = 0.0 if builder.unit == builder.exact else 1e-5
        answer = solve(builder.program, seconds=seconds, gap=gap)
        if not answer.values:
            return None
        if attempt == 0:
            bound = min(bound, int((1e-6 - answer.bound) * builder.unit) // builder.exact * builder.exact)
        table = builder.table(answer.values)
        over = _overruns(problem, groups, table)
        if not any(over):
            return Counts(groups, table, bound, answer.status == "optimal" and attempt == 0)
        tightened = _tighten(tightened, over, int(builder.unit * 1e-5 * 10**attempt))
    return None


def _tighten(problem: Problem, over: list[int], least: int) -> Problem:
    """Take from each device what the solver's tolerance gave it too much, and a little more."""
    rooms = tuple(
        room - max(2 * excess, least) if excess and room < UNLIMITED else room
        for room, excess in zip(problem.rooms, over, strict=True)
    )
    pools = tuple(
        replace(pool, room=pool.room - max(2 * max(over[d] for d in pool.members), least))
        if any(over[d] for d in pool.members)
        else pool
        for pool in problem.pools
    )
    return replace(problem, rooms=rooms, pools=pools)


def fewest_hops(problem: Problem, policy: str, kept: int, seconds: float) -> Counts | None:
    """Return counts by run of equal atoms that keep ``kept`` bytes with the fewest changes of device."""
    groups = runs_of(problem)
    builder = _Builder(problem, groups, policy)
    if len(builder.program.costs) > MAX_HOP_COLUMNS:
        return None
    builder.program.at_most(-builder.amount(kept), [(c, -v) for c, v in builder.keep_bytes()])
    _count_hops(builder)
    answer = solve(builder.program, seconds=seconds, nodes=NODE_LIMIT // 10, gap=0.0)
    if not answer.values:
        return None
    table = builder.table(answer.values)
    if any(_overruns(problem, groups, table)):
        return None
    return Counts(groups, table, kept, answer.status == "optimal")


def least_extra(problem: Problem, policy: str, device: int, seconds: float) -> int | None:
    """Return the bytes ``device`` lacks for a legal placement under a policy; None if no bytes help."""
    groups = kinds_of(problem)
    builder = _Builder(problem, groups, policy, relieved=device)
    answer = solve(builder.program, seconds=seconds, gap=1e-6)
    if not answer.values:
        return None
    over = _overruns(problem, groups, builder.table(answer.values))
    return over[device] if not any(n for d, n in enumerate(over) if d != device) else None


def _count_hops(builder: _Builder) -> None:
    program, before = builder.program, dict[int, int]()
    for group, columns in zip(builder.groups, builder.columns, strict=True):
        used: dict[int, int] = {}
        for device in sorted({place.run for place in columns}):
            here = [(column, 1.0) for place, column in columns.items() if place.run == device]
            used[device] = program.column(cost=1.0)
            program.at_most(0.0, [(used[device], -float(len(group.members))), *here])
            program.at_most(0.0, [(used[device], 1.0), *((c, -1.0) for c, _ in here)])
        stays = {device: program.column(cost=-1.0) for device in used if device in before}
        for device, column in stays.items():
            program.at_most(0.0, [(column, 1.0), (used[device], -1.0)])
            program.at_most(0.0, [(column, 1.0), (before[device], -1.0)])
        if stays:
            program.at_most(1.0, [(column, 1.0) for column in stays.values()])
        before = used


def _overruns(
    problem: Problem, groups: tuple[Group, ...], table: tuple[dict[Place, int], ...]
) -> list[int]:  # fmt: skip
    """Return by device how many bytes the counts exceed its room or its pool, exactly."""
    used = [0] * len(problem.devices)
    peaks = list(problem.peaks or used)
    buffers = list(problem.buffers or used)
    base = [a + b for a, b in zip(peaks, buffers, strict=True)]
    for group, place, count in _entries(groups, table):
        used[place.store] += count * group.atom.weight
        used[place.run] += count * group.atom.demand
        peaks[place.run] = max(peaks[place.run], group.atom.peak)
        if place.streamed:
            buffers[place.run] = max(buffers[place.run], group.atom.stream)
    loads = [u + p + b - o for u, p, b, o in zip(used, peaks, buffers, base, strict=True)]
    over = [max(0, load - max(0, room)) for load, room in zip(loads, problem.rooms, strict=True)]
    for pool in problem.pools:
        excess = sum(loads[d] for d in pool.members) - max(0, pool.room)
        for device in pool.members:
            over[device] = max(over[device], excess)
    return over


def _entries(
    groups: tuple[Group, ...], table: tuple[dict[Place, int], ...]
) -> Iterator[tuple[Group, Place, int]]:
    for group, counts in zip(groups, table, strict=True):
        for place, count in counts.items():
            yield group, place, count

"""A placement problem as a dataflow graph: each device works on its own sample, the busiest sets the pace.

A part takes its device's time over the whole workload. What it makes for other devices is paid by the one
that sends it and by each that takes it, once each; a CPU's memory is where it is sent from, so that pays
nothing within its host.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import inf
from typing import Final

from ...ir import Workload
from .clock import Clock
from .costs import Costs, atom_seconds
from .dataflow import Graph
from .intervals import in_order
from .partition import least_load, partition
from .problem import UNLIMITED, Atom, Handover, Place, Problem
from .timing import HOP_SHARE, counted_calls

MOST: Final = 600
"""Parts that are shared out one by one; with more only the order of the layers is tried."""


def busy_seconds(problem: Problem, places: Sequence[Place], work: Workload) -> list[float]:
    """Return by device the seconds it works and hands over in one workload."""
    busy, tolls = [0.0] * len(problem.devices), Tolls(problem, work)
    runs = {grain: place.run for grain, place in problem.fixed.items()}
    for atom, place in (*zip(problem.atoms, places, strict=True), *problem.pinned):
        busy[place.run] += atom_seconds(tolls.costs, atom, place, work)
        runs.update(dict.fromkeys(atom.grains, place.run))
    for handover in handovers(problem):
        home, takers = runs[handover.source], {runs[target] for target in handover.targets}
        sent = [(taker, tolls.of(home, taker, handover.nbytes)) for taker in sorted(takers - {home})]
        busy[home] += max((seconds for _, seconds in sent), default=0.0)
        for taker, _ in sent:
            busy[taker] += tolls.of(taker, home, handover.nbytes)
    return busy


def handovers(problem: Problem) -> Iterator[Handover]:
    """Yield what grains hand each other; a part that is visited gets a hidden state and gives one back."""
    yield from problem.handovers
    atoms = (*problem.atoms, *(atom for atom, _ in problem.pinned))
    grains = [grain for atom in atoms for grain in atom.grains]
    visits = problem.visited_from
    for before, after in pairwise(_walked(problem, grains)):
        if not problem.handovers or visits.get(before) == after or visits.get(after) == before:
            yield Handover(before, (after,), problem.row)


def _walked(problem: Problem, grains: Iterable[int]) -> Iterator[int]:
    """Yield grains in the order they run; what is visited stands between two of what it is visited from."""
    homes = problem.visited_from
    for grain in sorted(grains):
        around = [homes[grain]] if grain in homes else []
        yield from (*around, grain, *around)


class Tolls:
    """The seconds devices spend on handing tensors over."""

    def __init__(self, problem: Problem, work: Workload) -> None:
        self.problem, self.costs = problem, Costs(problem)
        calls = counted_calls(work)
        self._times = sum(times for tokens, times in calls if tokens)
        self._tokens = sum(tokens * times for tokens, times in calls)
        mains = [Place(device, device) for device in problem.accelerators]
        quickest = (min(atom_seconds(self.costs, atom, p, work) for p in mains) for atom in problem.atoms)
        self._most = HOP_SHARE * sum(quickest) if mains else inf

    def of(self, here: int, there: int, nbytes: float) -> float:
        """Return the seconds ``here`` spends on a tensor between it and another device, in all calls.

        Waiting counts for no more than a share of all the work, and so does a hidden state whose size was
        guessed: models so small that hops are all there is are shared out as larger ones of their shape.
        """
        if here in self.problem.cpus and self.problem.beside(here, there):
            return 0.0
        wait, rate = self.costs.road(here, there)
        waits, travels = self._times * wait, self._tokens * nbytes / rate
        told = bool(self.problem.handovers)
        return min(waits, self._most) + travels if told else min(waits + travels, self._most)


@dataclass(frozen=True, slots=True)
class _Node:
    """A grain's work or, beside it, a tensor that it hands over."""

    atom: Atom
    pinned: Place | None
    grain: int
    handover: Handover | None = None

    @property
    def is_work(self) -> bool:
        """Say whether it stands for the atom's bytes and seconds: its first grain does."""
        return self.handover is None and self.grain == self.atom.grains[0]


class Pipeline:
    """The dataflow graph of a problem; with ``computing`` the CPUs may have what is not pinned too."""

    def __init__(self, problem: Problem, work: Workload, *, computing: bool = False) -> None:
        self.problem, self.work, self._tolls = problem, work, Tolls(problem, work)
        self._shared = {*problem.accelerators, *(problem.cpus if computing else ())}
        self.devices = tuple(sorted(self._shared | {place.run for _, place in problem.pinned}))
        self._nodes = tuple(self._made())
        self.graph = self._graph()

    def places(self, found: Sequence[int]) -> list[Place]:
        """Return the places of the free atoms in an assignment of the graph."""
        device = {node.atom.grains[0]: self.devices[at] for node, at in zip(self._nodes, found, strict=True)}
        return [Place(device[atom.grains[0]], device[atom.grains[0]]) for atom in self.problem.atoms]

    def _made(self) -> Iterator[_Node]:
        handed = defaultdict[int, list[Handover]](list)
        for handover in handovers(self.problem):
            handed[handover.source].append(handover)
        placed = (*((atom, None) for atom in self.problem.atoms), *self.problem.pinned)
        works = (_Node(atom, place, grain) for atom, place in placed for grain in atom.grains)
        for work in sorted(works, key=lambda node: node.grain):
            yield work
            yield from (replace(work, handover=handover) for handover in handed[work.grain])

    def _graph(self) -> Graph:
        position = {node.grain: index for index, node in enumerate(self._nodes) if node.handover is None}
        edges, groups = list[tuple[int, int]](), defaultdict[int, list[int]](list)
        for index, node in enumerate(self._nodes):
            groups[node.atom.grains[0]].append(index)
            if node.handover is not None:
                edges.append((position[node.grain], index))
                edges += [(index, position[target]) for target in node.handover.targets]
        nodes, devices = self._nodes, self.devices
        return Graph(
            times=tuple(tuple(self._seconds(node, device) for node in nodes) for device in devices),
            tolls=tuple(tuple(self._toll(node, device) for node in nodes) for device in devices),
            memories=tuple(map(self._room, devices)),
            sizes=tuple(float(node.atom.cost * node.is_work * (not node.pinned)) for node in nodes),
            edges=tuple(edges),
            groups=tuple(map(tuple, groups.values())),
        )

    def _seconds(self, node: _Node, device: int) -> float:
        barred = device in node.atom.banned or device not in self._shared
        if device != node.pinned.run if node.pinned else barred:
            return inf
        place = node.pinned or Place(device, device)
        return atom_seconds(self._tolls.costs, node.atom, place, self.work) if node.is_work else 0.0

    def _toll(self, node: _Node, device: int) -> float:
        if node.handover is None:
            return 0.0
        others = (other for other in self.devices if other != device)
        return min((self._tolls.of(device, other, node.handover.nbytes) for other in others), default=0.0)

    def _room(self, device: int) -> float:
        """Return what a device has beside the largest activations there may be."""
        problem, peak = self.problem, max((atom.peak for atom in self.problem.atoms), default=0)
        known = problem.peaks[device] if problem.peaks else 0
        pools = [pool.room for pool in problem.pools if device in pool.members]
        room = min([problem.rooms[device], *pools])
        return inf if room >= UNLIMITED else float(max(0, room - max(0, peak - known)))


def shared_out(
    problem: Problem, work: Workload, clock: Clock, *, computing: bool = False
) -> list[list[Place]]:  # fmt: skip
    """Return placements that are good in busiest device, the best found among them: segments at least."""
    if len(problem.atoms) > MOST:
        return []
    pipeline = Pipeline(problem, work, computing=computing)
    return [pipeline.places(partition(pipeline.graph, clock))] if pipeline.devices else []


def segments(problem: Problem, work: Workload) -> list[list[Place]]:
    """Return the best placement of contiguous segments, what is handed over counted, if one is looked for."""
    if len(problem.atoms) > MOST or not problem.accelerators:
        return []
    pipeline = Pipeline(problem, work)
    return [pipeline.places(in_order(pipeline.graph))]


def least_busy(problem: Problem, work: Workload, *, computing: bool = False) -> float:
    """Return a time the busiest device cannot beat, whatever is handed over."""
    return least_load(Pipeline(problem, work, computing=computing).graph)

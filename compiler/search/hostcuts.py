"""Which host gets which layers: consecutive ones, so that a hidden state crosses the network once a cut.

What a host takes for a stretch of layers is what it holds on its accelerators, in order, at their speed,
and the rest streamed or computed there, if its memory has room. The best cuts are found by going through
all of them, layer by layer and host by host.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum

from ...ir import CPU, Never, Plan, Workload, device_type, host_of
from .atoms import PlanProblem
from .costs import Costs, atom_seconds
from .problem import NEVER, Place, Problem
from .timing import counted_calls


class Filling(IntEnum):
    """What a host is taken to hold, from what is surely possible to what may be."""

    CARDS = 0
    """Whole layers on accelerators, where there are some."""
    BUFFERED = 1
    """The rest in its memory, a streaming buffer kept free on each accelerator."""
    BESIDE = 2
    """The rest in its memory, computed there."""
    POURED = 3
    """As many bytes as it has: layers may be opened."""


def confined(plan: Plan, layers: PlanProblem, work: Workload, *, busiest: bool) -> Iterator[Plan]:
    """Yield the plan with lines that keep each layer on one host, the best first, and at last without.

    Args:
        plan: what is to be placed; with one host there is nothing to keep.
        layers: its problem, layers whole.
        work: what the model is used for.
        busiest: take the least seconds of the host with most, instead of the least in all.

    """
    known: list[list[str]] = []
    several = len({host_of(device.name) for device in plan.devices}) > 1
    for filling in Filling if several else ():
        hosts = hosts_of_atoms(layers.problem, work, filling, busiest=busiest)
        if hosts is not None and hosts not in known:
            known.append(hosts)
            yield replace(plan, constraints=(*plan.constraints, *_lines(plan, layers, hosts)))
    yield plan


def _lines(plan: Plan, layers: PlanProblem, hosts: Sequence[str]) -> Iterator[Never]:
    for atom, host in zip(layers.problem.atoms, hosts, strict=True):
        others = [device.name for device in plan.devices if host_of(device.name) != host]
        for grain in atom.grains:
            yield from (Never(layers.grains[grain].path, name, added=True) for name in others)


def hosts_of_atoms(problem: Problem, work: Workload, filling: Filling, *, busiest: bool) -> list[str] | None:
    """Return the host of each atom, in the problem's order; None where hosts one after another lack room."""
    order = sorted(range(len(problem.atoms)), key=lambda index: problem.atoms[index].grains[0])
    names = list(dict.fromkeys(host_of(device.name) for device in problem.devices))
    costs = Costs(problem)
    stretches = [_Stretches(problem, costs, name, order, work, filling, busiest) for name in names]
    best: list[tuple[float, tuple[int, ...]] | None] = [None] * (len(order) + 1)
    best[0] = (0.0, ())
    for stretch in stretches:
        best = _with_host(best, stretch, busiest=busiest)
    if best[-1] is None:
        return None
    found = [""] * len(order)
    for position, host in enumerate(_spread(best[-1][1])):
        found[order[position]] = names[host]
    return found


def _with_host(
    best: Sequence[tuple[float, tuple[int, ...]] | None], stretch: _Stretches, *, busiest: bool
) -> list[tuple[float, tuple[int, ...]] | None]:
    """Return the best ways to place the first so many atoms with one more host; it may take none."""
    better = [None if known is None else (known[0], (*known[1], 0)) for known in best]
    for start, known in enumerate(best):
        if known is None:
            continue
        for count, seconds in enumerate(stretch.seconds(start, enters=any(known[1])), 1):
            total = max(known[0], seconds) if busiest else known[0] + seconds
            there = better[start + count]
            if there is None or total < there[0] * (1 - 1e-9):
                better[start + count] = (total, (*known[1], count))
    return better


def _spread(counts: Sequence[int]) -> Iterator[int]:
    for host, count in enumerate(counts):
        yield from [host] * count


@dataclass(slots=True)
class _Stretches:
    """The stretches of atoms one host may hold."""

    problem: Problem
    costs: Costs
    host: str
    order: Sequence[int]
    work: Workload
    filling: Filling
    busiest: bool
    devices: list[int] = field(init=False)

    def __post_init__(self) -> None:
        """Collect the devices of the host."""
        listed = enumerate(self.problem.devices)
        self.devices = [index for index, device in listed if host_of(device.name) == self.host]

    def seconds(self, start: int, *, enters: bool) -> Iterator[float]:
        """Yield the seconds of ever longer stretches from one position on, until the host is full."""
        mains, rest, rooms = self._rooms()
        road = self._entering() if enters else 0.0
        total = 0.0
        cursor, peak = 0, 0
        for position in range(start, len(self.order)):
            atom = self.problem.atoms[self.order[position]]
            peak = max(peak, atom.peak)
            while cursor < len(mains) and (
                mains[cursor] in atom.banned or rooms[mains[cursor]] < atom.cost + peak
            ):
                cursor += 1
            if cursor < len(mains):
                place: Place | None = Place(mains[cursor], mains[cursor])
            else:
                place = self._beside(rest, mains, rooms, atom.cost, atom.banned)
            if place is None:
                return
            rooms[place.store] -= atom.cost
            total += atom_seconds(self.costs, atom, place, self.work)
            yield max(road, total) if self.busiest else road + total

    def _rooms(self) -> tuple[list[int], list[int], dict[int, int]]:
        """Return the devices that hold layers, those that hold the rest, and the bytes they have for it."""
        rooms = {device: self.problem.rooms[device] for device in self.devices}
        mains = [d for d in self.devices if d in self.problem.accelerators]
        rest = [d for d in self.devices if d not in mains]
        if self.filling is Filling.CARDS and mains:
            return mains, [], rooms
        if self.filling is Filling.BUFFERED and rest:
            streams = [atom.stream for atom in self.problem.atoms if atom.stream < NEVER]
            return mains, rest, rooms | {d: rooms[d] - max(streams, default=0) for d in mains}
        if self.filling is Filling.POURED:
            sums = {group[0]: sum(rooms[d] for d in group) for group in (mains, rest) if group}
            return mains[:1], rest[:1], rooms | sums
        return mains, rest, rooms

    def _beside(
        self,
        rest: Sequence[int],
        mains: Sequence[int],
        rooms: dict[int, int],
        nbytes: int,
        banned: frozenset[int],
    ) -> Place | None:
        """Return where what fits on no accelerator goes."""
        store = next((d for d in rest if d not in banned and rooms[d] >= nbytes), None)
        if store is None:
            return None
        computes = next((d for d in rest if device_type(self.problem.devices[d].name) == CPU), None)
        run = computes if computes is not None else next(iter(mains), None)
        return None if run is None else Place(store, run)

    def _entering(self) -> float:
        """Return the seconds of one way over the network, for all calls of the workload.

        In a full pipeline the road is busy with the bytes of one request while the host computes another:
        that they take a while to arrive holds nobody up.
        """
        device = self.devices[0]
        other = next(i for i, one in enumerate(self.problem.devices) if host_of(one.name) != self.host)
        calls = counted_calls(self.work)
        wait = self.costs.hop(0, other, device) if self.busiest else 0.0
        return sum(times * (self.costs.hop(tokens, other, device) - wait) for tokens, times in calls if times)

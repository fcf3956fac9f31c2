"""The cost model: seconds of one call of a placement, from rates, weights and what a token needs of them.

A roofline. What computes takes the slower of reading its weights and of its operations; devices wait for
each other, so computing adds up. What is streamed travels while something else computes, and has the one
buffer there is from when it sets out until it was used: a call takes the longer of all its computing and
of all that its busiest link brings, with the computing of that, and longer where what is streamed lies
too close to what was before it to be there in time. Rows that a call chooses are known when it is there,
so they are waited for. Each change of device costs a latency and the hidden state's way over a link.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import Final, NamedTuple

from ...ir import DISK, Link, Workload, device_type, host_of, is_accelerator
from .problem import Atom, Place, Problem, changes_of
from .speeds import speeds
from .timing import BESIDE, LINK, READING, Timing, Waits, counted_calls
from .travelling import Step, layers_of, seconds_of

HOP_SECONDS: Final = 30e-6
"""A transfer of activations between devices, and the wait that comes with it."""
NETWORK: Final = Link("", "", 125_000_000, 200_000)
"""What is usual between two hosts where no `link` line tells: a gigabit a second."""

_ALL: Final[Mapping[int, float]] = {}
"""No device caches rows."""


class Cost(NamedTuple):
    """What one atom costs one call: seconds of reading, of operations, of travelling."""

    memory: float = 0.0
    computing: float = 0.0
    link: float = 0.0
    """Over the link of the device that runs it, while others compute, and until it was used there."""
    disk: float = 0.0
    """From the disk that stores it, while others compute, and until an accelerator used it."""
    waited: float = 0.0
    """For rows that travel once they are known, and for the host to be told which."""

    @property
    def busy(self) -> float:
        """Return the seconds in which nothing else computes."""
        return max(self.memory, self.computing) + self.waited


class Costs:
    """Costs of a problem's atoms and calls, each kind and place worked out once."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.rates = [speeds(device, problem.dtype) for device in problem.devices]
        self._links = {frozenset((link.a, link.b)): link for link in problem.links}
        self._cpus = frozenset(problem.cpus)
        self.disks = frozenset(i for i, d in enumerate(problem.devices) if device_type(d.name) == DISK)
        self._known: dict[tuple[object, Place, int], Cost] = {}
        self.layers = layers_of(problem)
        self._atoms = [*problem.atoms, *(atom for atom, _ in problem.pinned)]
        kinds: dict[object, int] = {}
        free = len(problem.atoms)
        self._kinds = [
            kinds.setdefault(atom.kind if index < free else index, len(kinds))
            for index, atom in enumerate(self._atoms)
        ]
        self._steps: dict[tuple[int, Place, int, float], Step] = {}

    def of(self, atom: Atom, place: Place, tokens: int) -> Cost:
        """Return what an atom costs a call of so many tokens at a place.

        What was not measured is taken to use every weight for every token, two operations each, two
        bytes a weight.
        """
        key = (atom.kind, place, tokens)
        if key not in self._known:
            self._known[key] = self._cost(atom, place, tokens)
        return self._known[key]

    def _cost(self, atom: Atom, place: Place, tokens: int) -> Cost:
        if not tokens:
            return Cost()
        run, flops, reads = self.rates[place.run], float(atom.weight), float(atom.weight)
        if atom.effort is not None:
            flops, reads = atom.effort
        read = min(atom.weight, reads * tokens)
        memory, computing = (read + atom.demand) / run.bandwidth, flops * tokens / run.flops
        products = run.product(read, flops * tokens, reads * tokens / read if read else 1.0)
        if memory >= computing:
            memory = max(memory, products + atom.demand / run.bandwidth)
        else:
            computing = max(computing, products)
        if not place.streamed:
            return Cost(memory, computing)
        moved, used = read if atom.rows else atom.weight, max(memory, computing)
        from_disk = moved / self.rates[place.store].link if place.store in self.disks else 0.0
        if place.run in self._cpus:
            return Cost(memory, computing, disk=from_disk)
        over = moved / (run.link if from_disk else min(run.link, self.rates[place.store].link))
        if atom.rows:
            return Cost(memory, computing, waited=self.road(place.store, place.run)[0] + max(over, from_disk))
        return Cost(memory, computing, link=over + used, disk=from_disk + used if from_disk else 0.0)

    def road(self, here: int, there: int) -> tuple[float, float]:
        """Return what lies between two devices: seconds before anything arrives, bytes per second."""
        names = [self.problem.devices[d] for d in (here, there)]
        hosts = [host_of(device.name) for device in names]
        road = self._links.get(frozenset(device.name for device in names))
        if road is None and hosts[0] != hosts[1]:
            road = self._links.get(frozenset(hosts), NETWORK)
        if road is not None:
            return HOP_SECONDS if road.latency is None else road.latency * 1e-9, road.rate
        links = [self.rates[d].link for d in (here, there) if is_accelerator(self.problem.devices[d].name)]
        told = [device.latency * 1e-9 for device in names if device.latency is not None]
        return max(told, default=HOP_SECONDS), min(links, default=inf)

    def hop(self, tokens: int, here: int, there: int) -> float:
        """Return the seconds of a change of device in a call of so many tokens."""
        wait, rate = self.road(here, there)
        return wait + tokens * self.problem.row / rate

    def call(self, places: Sequence[Place], tokens: int) -> Waits:
        """Return what a call of so many tokens takes under a placement of the free atoms."""
        if not tokens:
            return Waits((), 0.0, 0.0)
        parts: dict[str, float] = defaultdict(float)
        counted: Counter[tuple[tuple[object, ...], Place]] = Counter()
        sample: dict[tuple[object, ...], Atom] = {}
        for atom, place in self._all(places):
            sample.setdefault(kind := atom.kind, atom)
            counted[kind, place] += 1
        for (kind, place), count in counted.items():
            self._add(parts, self.of(sample[kind], place, tokens), place, count)
        shares = missed(self.problem, places)
        for device, share in shares.items():
            parts[f"rows to {self.problem.devices[device].name}"] *= share
        waits = sum(seconds for what, seconds in parts.items() if not what.startswith(BESIDE))
        changes = Counter(changes_of(self.problem, places))
        hopping = sum(count * self.hop(tokens, *pair) for pair, count in changes.items())
        latencies = sum(count * self.road(*pair)[0] for pair, count in changes.items())
        call = Waits(tuple(parts.items()), waits, hopping, changes.total(), latencies)
        if not call.beside:
            return call
        at = self.everywhere(places)
        rows = ((layer, [at[index] for index in layer]) for layer in self.layers)
        steps = (step for layer, where in rows for step in self.steps(layer, where, tokens, shares))
        return replace(call, stalled=max(0.0, seconds_of(steps, hopping) - call.seconds))

    def everywhere(self, places: Sequence[Place]) -> list[Place]:
        """Return the places of the free atoms, and of the pinned ones."""
        return [*places, *(place for _, place in self.problem.pinned)]

    def kind_of(self, layer: tuple[int, ...]) -> tuple[int, ...]:
        """Return what makes two layers interchangeable; those with pins are so with none."""
        return tuple([self._kinds[index] for index in layer])

    def steps(
        self,
        layer: tuple[int, ...],
        places: Sequence[Place],
        tokens: int,
        shares: Mapping[int, float] = _ALL,
    ) -> list[Step]:
        """Return what a layer's atoms do to a call at these places; ``shares`` of rows are not cached."""
        found: dict[tuple[Place, int], Step] = {}
        for index, place in zip(layer, places, strict=True):
            step = self._step(index, place, tokens, shares.get(place.run, 1.0))
            key = place, len(step.ways)  # rows do not travel with what is around them
            found[key] = found[key].joined(step) if key in found else step
        return list(found.values())

    def _step(self, index: int, place: Place, tokens: int, share: float) -> Step:
        key = (self._kinds[index], place, tokens, share)
        if key not in self._steps:
            cost = self.of(self._atoms[index], place, tokens)
            used, buffered = max(cost.memory, cost.computing), place.run not in self._cpus
            ways = ((LINK, place.run, cost.link), (READING, place.store, cost.disk))
            over = tuple(((what, device), max(0.0, s - used * buffered)) for what, device, s in ways if s)
            self._steps[key] = Step(used + cost.waited * share, over, buffered)
        return self._steps[key]

    def _all(self, places: Sequence[Place]) -> Iterator[tuple[Atom, Place]]:
        yield from zip(self.problem.atoms, places, strict=True)
        yield from self.problem.pinned

    def _add(self, parts: dict[str, float], cost: Cost, place: Place, count: int) -> None:
        run, store = (self.problem.devices[d].name for d in (place.run, place.store))
        bound = "memory" if cost.memory >= cost.computing else "computing"
        parts[f"{bound} of {run}"] += count * max(cost.memory, cost.computing)
        for what, seconds in (
            (f"{LINK} to {run}", cost.link),
            (f"{READING} {store}", cost.disk),
            (f"rows to {run}", cost.waited),
        ):
            if seconds:
                parts[what] += count * seconds


def missed(problem: Problem, places: Sequence[Place]) -> dict[int, float]:
    """Return by device the share of rows that its cache does not hold, each row as likely as any other."""
    totals: Counter[int] = Counter()
    if any(problem.caches):
        for atom, place in (*zip(problem.atoms, places, strict=True), *problem.pinned):
            if atom.rows and place.streamed and problem.caches[place.run]:
                totals[place.run] += atom.weight
    return {d: max(0.0, 1 - problem.caches[d] / total) for d, total in totals.items() if total}


def predict(problem: Problem, places: Sequence[Place], work: Workload) -> Timing:
    """Return the predicted seconds of a workload under a placement."""
    return timing_of(Costs(problem), places, work)


def timing_of(costs: Costs, places: Sequence[Place], work: Workload) -> Timing:
    """Return the same by costs that are known already."""
    (prompt, _), (token, _) = counted_calls(work)
    return Timing(costs.call(places, prompt), costs.call(places, token), work)


def atom_seconds(costs: Costs, atom: Atom, place: Place, work: Workload) -> float:
    """Return the time an atom takes at a place over a whole workload if nothing hides its transfers."""
    total = 0.0
    for tokens, times in counted_calls(work):
        cost = costs.of(atom, place, tokens)
        total += times * max(cost.busy, cost.link, cost.disk)
    return total

"""Sharing out a dataflow graph: segments first, then a walk, then exact windows of a few devices.

Each stage starts from what the one before found. All are counted in moves and nodes, so that every
machine gives the same answer; the clock only ends them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from math import inf
from statistics import fmean
from typing import Final

from .annealing import anneal
from .clock import Clock
from .dataflow import Assignment, Graph, busiest
from .intervals import in_order
from .windows import Window

STEPS: Final = 20_000
"""Moves the walk tries."""
NODES: Final = {2: 200, 3: 20}
"""Nodes of an integer program by the devices of its window: three take ten times as long as two."""
WORK: Final = 24_000
"""Columns of all windows together: 20 seconds on a machine of today, whatever the graph's size."""
GAIN: Final = 1e-6
"""Relative gain below which a window changed nothing."""
ENOUGH: Final = 2e-3
"""Distance from the bound at which there is nothing more to look for."""


def partition(graph: Graph, clock: Clock, steps: int = STEPS) -> list[int]:
    """Return a device for every node, so that the busiest device has as little to do as can be found."""
    simple = in_order(graph)
    if busiest(graph, simple) <= least_load(graph) * (1 + ENOUGH):
        return simple
    settled = _Settling(graph, clock).settle(anneal(graph, simple, steps))
    return min(simple, settled, key=lambda devices: busiest(graph, devices))


def least_load(graph: Graph) -> float:
    """Return a load the busiest device cannot go below, were nothing to be sent.

    By duality any weights of the devices that add up to 1 give such a load: the sum over groups of the
    least weighted time. Weights by the speed of each device are exact where speeds differ by one factor.
    """
    needed = [[sum(times[node] for node in group) for group in graph.groups] for times in graph.times]
    means = [fmean(here) if (here := [t for t in times if t < inf]) else inf for times in needed]
    speeds = [0.0 if mean == inf else 1 / max(mean, 1e-300) for mean in means]
    weights = [speed / max(sum(speeds), 1e-300) for speed in speeds]
    rows = list(zip(*needed, strict=True))
    shared = sum(min((w * t for w, t in zip(weights, row, strict=True) if w), default=0.0) for row in rows)
    return max(shared, *map(min, rows)) if rows else 0.0


class _Settling:
    """Shares out again what a few devices have, the busiest among them, until no few can do better."""

    def __init__(self, graph: Graph, clock: Clock) -> None:
        self.graph, self.clock = graph, clock
        self.tried: set[object] = set()
        self.work = 0

    def settle(self, devices: list[int]) -> list[int]:
        """Return the last of a row of assignments, each better than the one before."""
        while not self.clock.ended and (better := next(self._better(devices), None)):
            devices = better
        return devices

    def _better(self, devices: list[int]) -> Iterator[list[int]]:
        """Yield assignments in which the busiest device has less to do and no other as much."""
        before = Assignment(self.graph, devices)
        limit = max(before.loads) * (1 - GAIN)
        for few in _windows(before):
            held = self._held(devices, few)
            if held in self.tried:
                continue
            self.tried.add(held)
            window = Window(self.graph, devices, few)
            if self.work + window.work > WORK:
                continue
            self.work += window.work
            shared = window.share_again(self.clock, NODES[len(few)])
            if shared is None:
                continue
            self.tried.add(self._held(shared, few))  # asked again it would answer the same
            after = Assignment(self.graph, shared)
            if max(after.loads[device] for device in few) < limit and not after.excess > 0:
                yield shared

    def _held(self, devices: Sequence[int], few: Sequence[int]) -> object:
        """Return what the few devices have, whichever of those that are alike has it."""
        alike = {device: kind for kind in self.graph.kinds for device in kind}
        return frozenset(
            (alike[one], tuple(node for node, device in enumerate(devices) if device == one)) for one in few
        )


def _windows(state: Assignment) -> Iterator[Sequence[int]]:
    """Yield the busiest device with others, the idlest first; of those that are alike and empty one."""
    top = max(range(len(state.loads)), key=lambda device: (state.loads[device], -device))
    others = sorted((d for d in range(len(state.loads)) if d != top), key=lambda d: (state.loads[d], d))
    idle = [
        device
        for kind in state.graph.kinds
        for device in [d for d in kind if not state.loads[d] and d != top][1:]
    ]
    others = [device for device in others if device not in idle]
    for count in NODES:
        yield from ((top, *rest) for rest in combinations(others, count - 1))

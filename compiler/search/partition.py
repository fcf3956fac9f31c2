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
from .windows import share_again

STEPS: Final = 20_000
"""Moves the walk tries."""
NODES: Final = {2: 200, 3: 20}
"""Nodes of an integer program by the devices of its window: three take ten times as long as two."""
MAX_FREE: Final = 400
"""Groups a window of more than two devices may hold: the program grows with its devices."""
GAIN: Final = 1e-6
"""Relative gain below which a window changed nothing."""
ENOUGH: Final = 2e-3
"""Distance from the bound at which there is nothing more to look for."""


def partition(graph: Graph, clock: Clock, steps: int = STEPS) -> list[int]:
    """Return a device for every node, so that the busiest device has as little to do as can be found."""
    simple = in_order(graph)
    if busiest(graph, simple) <= least_load(graph) * (1 + ENOUGH):
        return simple
    settled = _settled(graph, anneal(graph, simple, steps), clock)
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


def _settled(graph: Graph, devices: list[int], clock: Clock) -> list[int]:
    """Share out again what a few devices have, the busiest among them, until no few can do better."""
    tried: set[object] = set()
    while not clock.ended:
        better = next(_improved(graph, devices, clock, tried), None)
        if better is None:
            break
        devices = better
    return devices


def _improved(graph: Graph, devices: list[int], clock: Clock, tried: set[object]) -> Iterator[list[int]]:
    """Yield assignments in which the busiest device has less to do and no other as much."""
    before = Assignment(graph, devices)
    most = max(before.loads)
    for window in _windows(before):
        held = tuple(tuple(node for node, device in enumerate(devices) if device == one) for one in window)
        free = sum(devices[group[0]] in window for group in graph.groups)
        if held in tried or (len(window) > 2 and free > MAX_FREE):
            continue
        tried.add(held)
        shared = share_again(graph, devices, window, clock, NODES[len(window)])
        if shared is None:
            continue
        after = Assignment(graph, shared)
        if max(after.loads[device] for device in window) < most * (1 - GAIN) and not after.excess > 0:
            yield shared


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

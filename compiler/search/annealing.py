"""Leaving the order of a dataflow graph: every assignment of a tiny one, a seeded walk on others.

The number of moves tried is fixed, not the time, so every machine gives the same answer.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import product
from math import exp, inf
from typing import Final

from .dataflow import Assignment, Graph, busiest

HEATS: Final = ((0.02, 0.3), (0.005, 0.35), (0.0005, 0.35))
"""Starting temperature, relative to the load, and share of the moves, by stage."""
TINY: Final = 20_000
"""Assignments that are rather counted than walked among."""


def anneal(graph: Graph, start: Sequence[int], steps: int, *, seed: int = 0) -> list[int]:
    """Return the best assignment of a tiny graph, else the best met from ``start`` on."""
    if (graph.accelerators + graph.cpus) ** len(graph.groups) <= TINY:
        return exhaust(graph)
    return walk(graph, start, steps, seed=seed)


def exhaust(graph: Graph) -> list[int]:
    """Return the first of the best among all assignments."""
    return min(_assignments(graph), key=lambda devices: busiest(graph, devices))


def _assignments(graph: Graph) -> Iterator[list[int]]:
    """Yield every device for every group; accelerators are equal, so they come into use in order."""
    group_of = {node: i for i, group in enumerate(graph.groups) for node in group}
    for choice in product(range(graph.accelerators + graph.cpus), repeat=len(graph.groups)):
        used = list(dict.fromkeys(device for device in choice if device < graph.accelerators))
        if used == sorted(used):
            yield [choice[group_of[node]] for node in range(len(graph.fast))]


def walk(graph: Graph, start: Sequence[int], steps: int, *, seed: int = 0) -> list[int]:
    """Return the best assignment met from ``start`` on, by stages that climb less and less."""
    best = list(start)
    for heat, share in HEATS:
        best = _walk(graph, best, int(steps * share), heat, random.Random(seed))  # noqa: S311  # no secret
    return best


def _walk(graph: Graph, start: list[int], steps: int, heat: float, chooser: random.Random) -> list[int]:
    """Move one group at a time; accept what is worse the less often the later it is."""
    state, best, least = Assignment(graph, start), start, busiest(graph, start)
    energy, neighbours = _energy(state), _neighbours(graph)
    scale = 0.0
    for step in range(steps):
        if step % 256 == 0:
            scale = energy * (heat * (1 - step / steps) ** 2 + 1e-6)
        moves = _proposal(chooser, graph, state, neighbours)
        undo = [(group, state.devices[group[0]]) for group, _ in moves]
        for group, device in moves:
            state.move(group, device)
        after = _energy(state)
        if after > energy and chooser.random() >= exp((energy - after) / scale):
            for group, device in undo:
                state.move(group, device)
            continue
        energy = after
        if max(state.loads) < least and max(state.sizes[: graph.accelerators]) <= graph.memory:
            best, least = list(state.devices), max(state.loads)
    return best


def _proposal(
    chooser: random.Random, graph: Graph, state: Assignment, neighbours: list[tuple[int, ...]]
) -> list[tuple[tuple[int, ...], int]]:
    """Return moves to try: one group, mostly to a neighbour's device, or two groups that swap."""
    index = chooser.randrange(len(graph.groups))
    group, near = graph.groups[index], neighbours[index]
    device = state.devices[group[0]]
    if near and chooser.random() < 0.7:
        wanted = state.devices[near[chooser.randrange(len(near))]]
    else:
        wanted = chooser.randrange(graph.accelerators + graph.cpus)
    if wanted == device or chooser.random() < 0.7:
        return [(group, wanted)]
    other = graph.groups[chooser.randrange(len(graph.groups))]
    return [(group, state.devices[other[0]]), (other, device)]


def _neighbours(graph: Graph) -> list[tuple[int, ...]]:
    found: list[tuple[int, ...]] = []
    for group in graph.groups:
        nodes = {n for node in group for n in (*graph.predecessors[node], *graph.successors[node])}
        found.append(tuple(sorted(nodes.difference(group))))
    return found


def _energy(state: Assignment) -> float:
    """Return the busiest load, softened by the others and by what exceeds the memory."""
    graph = state.graph
    over = sum(max(0.0, size / graph.memory - 1) for size in state.sizes[: graph.accelerators])
    if inf in state.loads:
        return inf
    total = 0.0
    for load in state.loads:
        total += load**12
    return float(total ** (1 / 12)) * (1 + 4 * over)

"""Leaving the order of a dataflow graph: every assignment of a tiny one, a seeded walk on others.

The walk moves clusters: groups on one device that would pay much if they were parted. They are large at
first and single groups at last, since a group that is moved alone out of a costly neighbourhood makes
things worse before they get better. The number of moves tried is fixed, not the time, so every machine
gives the same answer.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import product
from math import exp, inf
from typing import Final

from .dataflow import Assignment, Graph, Group, busiest

HEATS: Final = (0.02, 0.005, 0.0005)
"""Starting temperature of each round, relative to the load."""
BONDS: Final = (0.1, 0.02, 0.004, inf)
"""What it must cost to part a cluster, relative to the load, one level after the other."""
TINY: Final = 20_000
"""Assignments that are rather counted than walked among."""


def anneal(graph: Graph, start: Sequence[int], steps: int, *, seed: int = 0) -> list[int]:
    """Return the best assignment of a tiny graph, else the best met from ``start`` on."""
    if len(graph.memories) ** len(graph.groups) <= TINY:
        return exhaust(graph)
    return walk(graph, start, steps, seed=seed)


def exhaust(graph: Graph) -> list[int]:
    """Return the first of the best among all assignments."""
    return min(_assignments(graph), key=lambda devices: busiest(graph, devices))


def _assignments(graph: Graph) -> Iterator[list[int]]:
    """Yield every device for every group; those of a kind come into use in order."""
    for choice in product(range(len(graph.memories)), repeat=len(graph.groups)):
        used = list(dict.fromkeys(choice))
        firsts = ([device for device in used if device in kind] for kind in graph.kinds)
        if all(tuple(first) == kind[: len(first)] for first, kind in zip(firsts, graph.kinds, strict=True)):
            yield [choice[group] for group in graph.group_of]


def walk(graph: Graph, start: Sequence[int], steps: int, *, seed: int = 0) -> list[int]:
    """Return the best assignment met from ``start`` on, by rounds that climb less and less."""
    best, chooser = list(start), random.Random(seed)  # noqa: S311  # no secret
    for heat in HEATS:
        for bond in BONDS:
            clusters = _clusters(graph, best, bond * busiest(graph, best))
            best = _walk(graph, clusters, best, steps // (len(HEATS) * len(BONDS)), heat, chooser)
    return best


def _clusters(graph: Graph, devices: Sequence[int], bond: float) -> list[Group]:
    """Return the groups, those on one device together that an output of at least so many seconds joins."""
    leaders = list(range(len(graph.groups)))

    def find(group: int) -> int:
        while leaders[group] != group:
            leaders[group] = leaders[leaders[group]]
            group = leaders[group]
        return group

    for source, target in graph.edges:
        home = devices[source]
        if home == devices[target] and graph.tolls[home][source] >= bond:
            first, second = sorted((find(graph.group_of[source]), find(graph.group_of[target])))
            leaders[second] = first
    found: dict[int, list[int]] = {}
    for index, group in enumerate(graph.groups):
        found.setdefault(find(index), []).extend(group)
    return list(map(tuple, found.values()))


def _walk(
    graph: Graph, clusters: list[Group], start: list[int], steps: int, heat: float, chooser: random.Random
) -> list[int]:
    """Move one cluster at a time; accept what is worse the less often the later it is."""
    state, best, least = Assignment(graph, start), start, busiest(graph, start)
    energy, neighbours = _energy(state), _neighbours(graph, clusters)
    scale = 0.0
    for step in range(steps):
        if step % 256 == 0:
            scale = energy * (heat * (1 - step / steps) ** 2 + 1e-6)
        moves = _proposal(chooser, clusters, state, neighbours)
        undo = [(group, state.devices[group[0]]) for group, _ in moves]
        for group, device in moves:
            state.move(group, device)
        after = _energy(state)
        if after > energy and chooser.random() >= exp((energy - after) / scale):
            for group, device in undo:
                state.move(group, device)
            continue
        energy = after
        if max(state.loads) < least and not state.excess > 0:
            best, least = list(state.devices), max(state.loads)
    return best


def _proposal(
    chooser: random.Random, clusters: list[Group], state: Assignment, neighbours: list[Group]
) -> list[tuple[Group, int]]:
    """Return moves to try: one cluster, mostly to a neighbour's device, or two clusters that swap."""
    index = chooser.randrange(len(clusters))
    group, near = clusters[index], neighbours[index]
    device = state.devices[group[0]]
    if near and chooser.random() < 0.7:
        wanted = state.devices[near[chooser.randrange(len(near))]]
    else:
        wanted = chooser.randrange(len(state.loads))
    if wanted == device or chooser.random() < 0.7:
        return [(group, wanted)]
    other = clusters[chooser.randrange(len(clusters))]
    return [(group, state.devices[other[0]]), (other, device)]


def _neighbours(graph: Graph, clusters: list[Group]) -> list[Group]:
    found: list[Group] = []
    for group in clusters:
        nodes = {n for node in group for n in (*graph.predecessors[node], *graph.successors[node])}
        found.append(tuple(sorted(nodes.difference(group))))
    return found


def _energy(state: Assignment) -> float:
    """Return the busiest load, softened by the others and by what exceeds the memory."""
    most = max(state.loads)
    if most in {0.0, inf}:
        return most
    total = 0.0
    for load in state.loads:
        total += (load / most) ** 12
    return float(most * total ** (1 / 12)) * (1 + 4 * state.excess)

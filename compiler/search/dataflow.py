"""Throughput on a dataflow graph: the least time per sample of the busiest device.

A node takes its device's time; what crosses devices is paid once per producer and device, by sender
and receiver, on accelerators only. A program over a few orders finds the best contiguous segments;
`annealing` leaves the order where that pays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from math import inf
from typing import TypeAlias


@dataclass(frozen=True)
class Graph:
    """Nodes that must be placed, in an order that follows the edges."""

    fast: tuple[float, ...]
    """Seconds of each node on an accelerator; infinite where it cannot run there."""
    slow: tuple[float, ...]
    """Seconds of each node on a CPU."""
    sizes: tuple[float, ...]
    costs: tuple[float, ...]
    """Seconds to move each node's output between an accelerator and the host."""
    edges: tuple[tuple[int, int], ...]
    groups: tuple[tuple[int, ...], ...]
    """Nodes that share a device, in order of their first node."""
    accelerators: int
    cpus: int
    memory: float
    """Bytes of one accelerator."""

    @cached_property
    def successors(self) -> tuple[tuple[int, ...], ...]:
        """Distinct consumers of each node."""
        found: list[set[int]] = [set() for _ in self.fast]
        for source, target in self.edges:
            found[source].add(target)
        return tuple(tuple(sorted(targets)) for targets in found)

    @cached_property
    def predecessors(self) -> tuple[tuple[int, ...], ...]:
        """Distinct producers of each node."""
        found: list[set[int]] = [set() for _ in self.fast]
        for source, target in self.edges:
            found[target].add(source)
        return tuple(tuple(sorted(sources)) for sources in found)


State: TypeAlias = tuple[int, int, int]
"""Accelerators and CPUs used, groups placed."""


class Assignment:
    """A device for every node, with the loads kept up to date as nodes move."""

    def __init__(self, graph: Graph, devices: Sequence[int]) -> None:
        self.graph, self.devices = graph, list(devices)
        count = graph.accelerators + graph.cpus
        self.consumers = [[0] * count for _ in graph.fast]
        self.loads, self.sizes = [0.0] * count, [0.0] * count
        for node, device in enumerate(devices):
            self.sizes[device] += graph.sizes[node]
            for source in graph.predecessors[node]:
                self.consumers[source][device] += 1
            self.loads[device] += self._time(node, device)
        for node in range(len(devices)):
            self._charge(node, 1.0)

    def move(self, group: Sequence[int], device: int) -> None:
        """Put the nodes of a group on a device."""
        for node in group:
            before = self.devices[node]
            touched = (node, *self.graph.predecessors[node])
            for producer in touched:
                self._charge(producer, -1.0)
            self.devices[node] = device
            for source in self.graph.predecessors[node]:
                self.consumers[source][before] -= 1
                self.consumers[source][device] += 1
            for producer in touched:
                self._charge(producer, 1.0)
            self.loads[before] -= self._time(node, before)
            self.loads[device] += self._time(node, device)
            self.sizes[before] -= self.graph.sizes[node]
            self.sizes[device] += self.graph.sizes[node]

    def _time(self, node: int, device: int) -> float:
        return self.graph.fast[node] if device < self.graph.accelerators else self.graph.slow[node]

    def _charge(self, producer: int, sign: float) -> None:
        """Add or take what moving a producer's output costs its device and its consumers'."""
        cost = self.graph.costs[producer] * sign
        if not cost:
            return
        home, counts, leaves = self.devices[producer], self.consumers[producer], False
        for device, count in enumerate(counts):
            if count and device != home:
                leaves = True
                if device < self.graph.accelerators:
                    self.loads[device] += cost
        if leaves and home < self.graph.accelerators:
            self.loads[home] += cost


def busiest(graph: Graph, devices: Sequence[int]) -> float:
    """Return the load of the busiest device; infinite where memory or support is missing."""
    state = Assignment(graph, devices)
    over = any(size > graph.memory for size in state.sizes[: graph.accelerators])
    return inf if over else max(state.loads)


def in_order(graph: Graph) -> list[int]:
    """Return the best assignment of contiguous segments, over a few orders that follow the edges."""
    best: list[int] = []
    limit = inf
    for groups in _orders(graph):
        found = _in_order(replace(graph, groups=groups), limit)
        if found is not None and (not best or busiest(graph, found) < limit):
            best, limit = found, busiest(graph, found)
    return best or [0] * len(graph.fast)


def _orders(graph: Graph) -> Iterator[tuple[tuple[int, ...], ...]]:
    """Yield orders of the groups: as given, as they become ready, and depth first from the sources."""
    yield graph.groups
    yield _grouped(graph, _as_ready(graph, newest=False))
    yield _grouped(graph, _as_ready(graph, newest=True))
    yield _grouped(graph, _depth_first(graph, 1))
    yield _grouped(graph, _depth_first(graph, -1))


def _grouped(graph: Graph, nodes: list[int]) -> tuple[tuple[int, ...], ...]:
    group_of = {node: i for i, group in enumerate(graph.groups) for node in group}
    return tuple(graph.groups[i] for i in dict.fromkeys(group_of[node] for node in nodes))


def _as_ready(graph: Graph, *, newest: bool) -> list[int]:
    waiting = [len(sources) for sources in graph.predecessors]
    ready = [node for node, count in enumerate(waiting) if not count]
    order: list[int] = []
    while ready:
        order.append(ready.pop(-1 if newest else 0))
        for target in graph.successors[order[-1]]:
            waiting[target] -= 1
            if not waiting[target]:
                ready.append(target)
    return order


def _depth_first(graph: Graph, step: int) -> list[int]:
    """Reverse postorder, children in ascending (1) or descending (-1) order."""
    order: list[int] = []
    seen: set[int] = set()
    for root in range(len(graph.fast))[::step]:
        if root in seen or graph.predecessors[root]:
            continue
        stack = [(root, iter(graph.successors[root][::step]))]
        seen.add(root)
        while stack:
            node, rest = stack[-1]
            following = next((target for target in rest if target not in seen), None)
            if following is None:
                order.append(node)
                stack.pop()
            else:
                seen.add(following)
                stack.append((following, iter(graph.successors[following][::step])))
    return order[::-1]


def _in_order(graph: Graph, limit: float) -> list[int] | None:
    """Return the best segments of one order, or None if no segments stay below the limit."""
    count = len(graph.groups)
    segments = [
        [
            (start + length, kind, load)
            for length, loads in enumerate(_segments(graph, start), 1)
            for kind, load in enumerate(loads)
            if load < limit
        ]
        for start in range(count)
    ]
    best: dict[State, float] = {(0, 0, 0): 0.0}
    last: dict[State, State] = {}
    for fast, slow, start in product(range(graph.accelerators + 1), range(graph.cpus + 1), range(count)):
        before = (fast, slow, start)
        here = best.get(before, inf)
        if here == inf:
            continue
        for stop, kind, load in segments[start]:
            state = (fast + 1 - kind, slow + kind, stop)
            value = max(here, load)
            if value < best.get(state, inf):
                best[state], last[state] = value, before
    ends = [
        state
        for state in best
        if state[2] == count and state[0] <= graph.accelerators and state[1] <= graph.cpus
    ]
    if not ends:
        return None
    return _read_back(graph, last, min(ends, key=lambda state: (best[state], state)))


def _read_back(graph: Graph, last: dict[State, State], state: State) -> list[int]:
    devices = [0] * len(graph.fast)
    while state[2]:
        before = last[state]
        device = before[0] if state[0] > before[0] else graph.accelerators + before[1]
        for group in graph.groups[before[2] : state[2]]:
            for node in group:
                devices[node] = device
        state = before
    return devices


def _segments(graph: Graph, start: int) -> Iterator[tuple[float, float]]:
    """Yield the loads of growing segments from a group on: as an accelerator, as a CPU."""
    inside: set[int] = set()
    left: dict[int, int] = {}
    entered: set[int] = set()
    fast = slow = size = moved = 0.0
    for group in graph.groups[start:]:
        for node in group:
            inside.add(node)
            if node in entered:
                entered.discard(node)
                moved -= graph.costs[node]
            fast, slow, size = fast + graph.fast[node], slow + graph.slow[node], size + graph.sizes[node]
            left[node] = sum(target not in inside for target in graph.successors[node])
            moved += graph.costs[node] if left[node] else 0.0
            for source in graph.predecessors[node]:
                if source in inside:
                    left[source] = left.get(source, 0) - (source != node)
                    moved -= graph.costs[source] if left[source] == 0 else 0.0
                elif source not in entered:
                    entered.add(source)
                    moved += graph.costs[source]
        yield (inf if size > graph.memory else fast + moved), slow

"""A dataflow graph to be shared out among devices, and what an assignment makes each of them do.

A node takes its device's time; what crosses devices is paid once per producer and device, by sender
and receiver. The value of an assignment is the load of the busiest device: the time per sample of a
full pipeline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import TypeAlias

Group: TypeAlias = tuple[int, ...]
"""Nodes that share a device."""


@dataclass(frozen=True)
class Graph:
    """Nodes that must be placed, in an order that follows the edges, and unequal devices for them."""

    times: tuple[tuple[float, ...], ...]
    """By device, the seconds of each node there; infinite where it cannot run."""
    tolls: tuple[tuple[float, ...], ...]
    """By device, the seconds it spends to send what each node makes, or to receive it."""
    memories: tuple[float, ...]
    """Bytes of each device."""
    sizes: tuple[float, ...]
    edges: tuple[tuple[int, int], ...]
    groups: tuple[Group, ...]
    """Every node once, in order of the groups' first nodes."""

    @cached_property
    def successors(self) -> tuple[tuple[int, ...], ...]:
        """Distinct consumers of each node."""
        found: list[set[int]] = [set() for _ in self.sizes]
        for source, target in self.edges:
            found[source].add(target)
        return tuple(tuple(sorted(targets)) for targets in found)

    @cached_property
    def predecessors(self) -> tuple[tuple[int, ...], ...]:
        """Distinct producers of each node."""
        found: list[set[int]] = [set() for _ in self.sizes]
        for source, target in self.edges:
            found[target].add(source)
        return tuple(tuple(sorted(sources)) for sources in found)

    @cached_property
    def group_of(self) -> tuple[int, ...]:
        """The group of each node."""
        found = [0] * len(self.sizes)
        for index, group in enumerate(self.groups):
            for node in group:
                found[node] = index
        return tuple(found)

    @cached_property
    def kinds(self) -> tuple[tuple[int, ...], ...]:
        """Devices that are worth the same, together, in order of their first."""
        found: dict[tuple[object, ...], list[int]] = {}
        for device, same in enumerate(zip(self.times, self.tolls, self.memories, strict=True)):
            found.setdefault(same, []).append(device)
        return tuple(map(tuple, found.values()))


class Assignment:
    """A device for every node, with the loads kept up to date as nodes move."""

    def __init__(self, graph: Graph, devices: Sequence[int]) -> None:
        self.graph, self.devices = graph, list(devices)
        count = len(graph.memories)
        self.consumers = [[0] * count for _ in graph.sizes]
        self.loads, self.sizes = [0.0] * count, [0.0] * count
        for node, device in enumerate(devices):
            self.sizes[device] += graph.sizes[node]
            for source in graph.predecessors[node]:
                self.consumers[source][device] += 1
            self.loads[device] += graph.times[device][node]
        for node in range(len(devices)):
            self._charge(node, 1.0)

    @property
    def excess(self) -> float:
        """Return by how much devices are too full, as shares of their memories."""
        pairs = zip(self.sizes, self.graph.memories, strict=True)
        return sum(size / max(memory, 1.0) - 1 for size, memory in pairs if size > memory)

    def move(self, group: Sequence[int], device: int) -> None:
        """Put nodes on a device."""
        times = self.graph.times
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
            self.loads[before] -= times[before][node]
            self.loads[device] += times[device][node]
            self.sizes[before] -= self.graph.sizes[node]
            self.sizes[device] += self.graph.sizes[node]

    def _charge(self, producer: int, sign: float) -> None:
        """Add or take what moving a producer's output costs its device and its consumers'."""
        home, leaves = self.devices[producer], False
        for device, count in enumerate(self.consumers[producer]):
            if count and device != home:
                leaves = True
                self.loads[device] += self.graph.tolls[device][producer] * sign
        if leaves:
            self.loads[home] += self.graph.tolls[home][producer] * sign


def busiest(graph: Graph, devices: Sequence[int]) -> float:
    """Return the load of the busiest device; infinite where memory or support is missing."""
    state = Assignment(graph, devices)
    return inf if state.excess > 0 else max(state.loads, default=0.0)

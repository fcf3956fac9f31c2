"""The best contiguous segments of a dataflow graph, over a few orders that follow its edges.

A program over how many devices of each kind are used: what is the least load with which they hold the
first groups of the order? The loads of all segments are sums over rectangles of (first, end).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import product
from math import inf, prod
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from .dataflow import Graph, Group, busiest

if TYPE_CHECKING:
    import numpy as np

    Table: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

Node = TypeVar("Node", bound=Hashable)

MAX_STATES: Final = 2048
"""Combinations of devices that are told apart; with more the devices are used in the order given."""
State: TypeAlias = tuple[int, ...]
"""How many devices of each kind are used."""


def in_order(graph: Graph) -> list[int]:
    """Return the best assignment of contiguous segments; all on the first device if there is none."""
    tried = (_Program(graph, groups).best() for groups in dict.fromkeys(_orders(graph)))
    found = [devices for devices in tried if devices]
    return min(found, key=lambda devices: busiest(graph, devices), default=[0] * len(graph.sizes))


def _orders(graph: Graph) -> Iterator[tuple[Group, ...]]:
    """Yield orders of the groups: as given, as they become ready, and depth first from the sources."""
    yield graph.groups
    for nodes in (
        _as_ready(graph, newest=False),
        _as_ready(graph, newest=True),
        _depth_first(graph, 1),
        _depth_first(graph, -1),
    ):
        yield tuple(graph.groups[i] for i in dict.fromkeys(graph.group_of[node] for node in nodes))


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
    sources = (node for node in range(len(graph.sizes))[::step] if not graph.predecessors[node])
    return postorder(sources, lambda node: graph.successors[node][::step])[::-1]


def postorder(roots: Iterable[Node], following: Callable[[Node], Iterable[Node]]) -> list[Node]:
    """Return what is reached from some nodes, each once, behind all that follow it."""
    order: list[Node] = []
    seen: set[Node] = set()
    for root in roots:
        stack = [(root, iter(following(root)))] if root not in seen else []
        seen.add(root)
        while stack:
            node, rest = stack[-1]
            deeper = next((target for target in rest if target not in seen), None)
            if deeper is None:
                order.append(node)
                stack.pop()
            else:
                seen.add(deeper)
                stack.append((deeper, iter(following(deeper))))
    return order


class _Program:
    """The dynamic program over one order."""

    def __init__(self, graph: Graph, groups: Sequence[Group]) -> None:
        self.graph, self.groups, self.kinds = graph, groups, _kinds(graph)
        self.loads = [_segment_loads(graph, groups, kind[0]) for kind in self.kinds]
        self.reach: dict[State, Table] = {}

    def best(self) -> list[int]:
        """Return the best segments as a device for every node; empty if nothing holds them."""
        import numpy as np

        start = np.full(len(self.groups) + 1, np.inf)
        start[0] = 0.0
        for state in product(*(range(len(kind) + 1) for kind in self.kinds)):
            ways = [self._ways(before, kind).min(axis=0) for before, kind in self._before(state)]
            self.reach[state] = np.minimum.reduce(ways) if any(state) else start
        ends = {state: float(values[-1]) for state, values in self.reach.items()}
        least = min(ends, key=lambda state: (ends[state], sum(state), state))
        return [] if ends[least] == inf else self._read_back(least)

    def _before(self, state: State) -> list[tuple[State, int]]:
        """Return the states with one device less, and its kind."""
        return [
            ((*state[:kind], count - 1, *state[kind + 1 :]), kind)
            for kind, count in enumerate(state)
            if count
        ]

    def _ways(self, before: State, kind: int) -> Table:
        """Return the load by (start, end) if a device of a kind takes a segment after a state's."""
        import numpy as np

        return np.maximum(self.reach[before][:, None], self.loads[kind])

    def _read_back(self, state: State) -> list[int]:
        devices, stop = [0] * len(self.graph.sizes), len(self.groups)
        while stop:
            ways = [(before, kind, self._ways(before, kind)[:, stop]) for before, kind in self._before(state)]
            before, kind, column = min(ways, key=lambda way: float(way[2].min()))
            start = int(column.argmin())
            for group in self.groups[start:stop]:
                for node in group:
                    devices[node] = self.kinds[kind][before[kind]]
            state, stop = before, start
        return devices


def _kinds(graph: Graph) -> tuple[tuple[int, ...], ...]:
    """Return the kinds of devices; where they are too many, those that are most alike as one kind's.

    A kind is judged by its first device, so the slowest comes first.
    """
    kinds = graph.kinds
    while prod(len(kind) + 1 for kind in kinds) > MAX_STATES:
        speeds = [sum(min(time, 1e30) for time in graph.times[kind[0]]) for kind in kinds]
        ranked = sorted(range(len(kinds)), key=lambda kind: -speeds[kind])
        first = min(
            range(len(ranked) - 1), key=lambda i: speeds[ranked[i]] / max(speeds[ranked[i + 1]], 1e-30)
        )
        pair = {ranked[first], ranked[first + 1]}
        merged = kinds[ranked[first]] + kinds[ranked[first + 1]]
        kinds = (*(kind for index, kind in enumerate(kinds) if index not in pair), merged)
    return kinds


def _segment_loads(graph: Graph, groups: Sequence[Group], device: int) -> Table:
    """Return the load of a device by (start, end) of a segment; infinite where it cannot hold it."""
    import numpy as np

    count = len(groups)
    position = {node: index for index, group in enumerate(groups) for node in group}
    needed = np.array([0.0, *(sum(graph.times[device][node] for node in group) for group in groups)])
    times, barred = np.where(np.isinf(needed), 0.0, needed).cumsum(), np.isinf(needed).cumsum()
    sizes = np.cumsum([0.0, *(sum(graph.sizes[node] for node in group) for group in groups)])
    corners = np.zeros((count + 2, count + 2))
    for node, toll in enumerate(graph.tolls[device]):
        ends = sorted({position[target] for target in graph.successors[node]}) if toll else []
        for rows, columns in _paying(position[node], ends, count):
            corners[rows.start, columns.start] += toll
            corners[rows.stop, columns.start] -= toll
            corners[rows.start, columns.stop] -= toll
            corners[rows.stop, columns.stop] += toll
    moved = corners.cumsum(axis=0).cumsum(axis=1)[: count + 1, : count + 1]
    loads: Table = times[None, :] - times[:, None] + moved
    loads[sizes[None, :] - sizes[:, None] > graph.memories[device]] = np.inf
    loads[barred[None, :] > barred[:, None]] = np.inf
    loads[np.tril_indices(count + 1)] = np.inf
    return loads


def _paying(home: int, ends: Sequence[int], count: int) -> Iterator[tuple[range, range]]:
    """Yield the (starts, stops) of segments that pay for what the group at ``home`` makes, each once.

    ``ends`` are the groups that take it.
    """
    if not ends or ends == [home]:
        return
    low, high = min(home, ends[0]), max(home, ends[-1])
    yield range(low + 1, home + 1), range(home + 1, count + 1)  # the sender, something before its start
    yield range(low + 1), range(home + 1, high + 1)  # the sender, something after its end
    before = -1
    for end in ends:  # a receiver whose first taker this is
        if end > home:
            yield range(max(before, home) + 1, end + 1), range(end + 1, count + 1)
        elif end < home:
            yield range(before + 1, end + 1), range(end + 1, home + 1)
        before = end

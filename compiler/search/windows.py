"""Re-sharing what a few devices have between them, exactly: an integer program over their groups.

The loads of the other devices do not change by it, so the better of two answers is told by the few.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Final

from .clock import Clock
from .dataflow import Graph
from .highs import Program

GAP: Final = 1e-3
CALMING: Final = 1e-3
"""What the other loads of a window count beside its busiest: room that is made is used by the next."""


class Window:
    """A program whose columns say which device of the window each free group has."""

    def __init__(self, graph: Graph, devices: Sequence[int], window: Sequence[int]) -> None:
        self.graph, self.devices, self.window = graph, devices, tuple(window)
        self.program = Program()
        self.free = [i for i, group in enumerate(graph.groups) if devices[group[0]] in self.window]
        self.column = {
            (group, device): self.program.column(upper=float(self._allowed(group, device)))
            for group in self.free
            for device in self.window
        }
        for group in self.free:
            self.program.equal(1.0, [(self.column[group, device], 1.0) for device in self.window])
        self.loads = {device: self._times(device) for device in self.window}
        self.paid: list[tuple[int, int, int]] = []
        """Columns of what is sent or received: (column, producer, device)."""
        self._add_tolls()
        self._add_limits()

    @property
    def work(self) -> int:
        """Return about how long it takes: its columns, once more for every device beyond two."""
        return len(self.program.costs) * max(1, len(self.window) - 1)

    def share_again(self, clock: Clock, nodes: int) -> list[int] | None:
        """Return the best assignment found that differs only in which of the window's devices has what."""
        answer = clock.solve(self.program, gap=GAP, nodes=nodes)
        return self._read(answer.values) if answer.values else None

    def _allowed(self, group: int, device: int) -> bool:
        return all(self.graph.times[device][node] < inf for node in self.graph.groups[group])

    def _times(self, device: int) -> list[tuple[int, float]]:
        times = self.graph.times[device]
        return [
            (self.column[group, device], sum(times[node] for node in self.graph.groups[group]))
            for group in self.free
            if self._allowed(group, device)
        ]

    def _add_tolls(self) -> None:
        free, group_of = set(self.free), self.graph.group_of
        for producer, targets in enumerate(self.graph.successors):
            home, takers = group_of[producer], {group_of[target] for target in targets}
            takers -= {home}
            if not takers or not (home in free or takers & free):
                continue
            for device in self.window:
                toll = self.graph.tolls[device][producer]
                if toll:
                    self._send(home, takers, device, toll) if home in free else None
                    self._receive(home, takers & free, device, toll)

    def _send(self, home: int, takers: set[int], device: int, toll: float) -> None:
        """Let a device pay for what leaves it."""
        here = self.column[home, device]
        if not takers <= set(self.free):
            self.loads[device].append((here, toll))
            return
        paid = self.program.column(integer=False)
        self.loads[device].append((paid, toll))
        for taker in sorted(takers):
            self.program.at_most(0.0, [(here, 1.0), (self.column[taker, device], -1.0), (paid, -1.0)])

    def _receive(self, home: int, takers: set[int], device: int, toll: float) -> None:
        """Let a device pay for what comes to it."""
        if not takers:
            return
        paid = self.program.column(integer=False)
        self.loads[device].append((paid, toll))
        here = [(self.column[home, device], -1.0)] if (home, device) in self.column else []
        for taker in sorted(takers):
            self.program.at_most(0.0, [(self.column[taker, device], 1.0), *here, (paid, -1.0)])

    def _add_limits(self) -> None:
        """Bind the memories and the loads, which are relative to a scale."""
        terms = [seconds for loads in self.loads.values() for _, seconds in loads]
        self.scale = max(terms, default=0.0) or 1.0
        level = self.program.column(cost=1.0, upper=inf, integer=False)
        each = CALMING / len(self.window)
        for device in self.window:
            memory = self.graph.memories[device]
            if memory < inf:
                held = [(self.column[g, device], self._size(g) / max(memory, 1.0)) for g in self.free]
                self.program.at_most(1.0, held)
            load = [(column, seconds / self.scale) for column, seconds in self.loads[device]]
            own = self.program.column(cost=each, upper=inf, integer=False)
            self.program.at_most(0.0, [*load, (own, -1.0)])
            self.program.at_most(0.0, [(own, 1.0), (level, -1.0)])

    def _size(self, group: int) -> float:
        return sum(self.graph.sizes[node] for node in self.graph.groups[group])

    def _read(self, values: Sequence[float]) -> list[int]:
        found = list(self.devices)
        for group in self.free:
            chosen = max(self.window, key=lambda device: values[self.column[group, device]])
            for node in self.graph.groups[group]:
                found[node] = chosen
        return found

"""What crosses between the hosts of a plan in one forward, as the processes of its hosts send it.

Between units every host runs the model's own code: what follows from the inputs alone is made on each and
never travels, what a unit computed is on its host until another needs it, and then it is there too. Inside a
unit everything is on its host; a part that another host has gets its arguments and hands its results back.
What the call returns goes to every host.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from ...ir import Plan, host_of, unit_of_tensors
from ..running.everywhere import made_everywhere
from .replay import Places
from .trace import Enter, Leave, Op, Origin, Trace


class Crossing(NamedTuple):
    """A tensor that goes from one host to another."""

    step: int
    value: int
    origin: str
    """The device it was computed on."""
    target: str
    """The device that needs it; of a result the host that gets it."""


@dataclass(slots=True)
class _Holders:
    """The devices a tensor between units is on, that of its maker first; none: every host makes it."""

    devices: list[str] = field(default_factory=list[str])

    def hosts(self) -> set[str]:
        return {host_of(device) for device in self.devices}


def crossings(trace: Trace, plan: Plan, places: Places) -> tuple[Crossing, ...]:
    """Return what crosses in the order it does; nothing where all devices are on one host."""
    if len({host_of(str(unit.run)) for unit in plan.units}) < 2:
        return ()
    return tuple(_Wires(trace, plan, places).run())


class _Wires:
    def __init__(self, trace: Trace, plan: Plan, places: Places) -> None:
        self.trace = trace
        self.hosts = list(dict.fromkeys(host_of(str(unit.run)) for unit in plan.units))
        everywhere, index = made_everywhere(plan, trace.tree), trace.tree.module_index
        made = {index[path] for path in everywhere if path in index}
        self.owners = [
            None if target is None or module in made else str(target)
            for module, target in enumerate(places.targets)
        ]
        self.held: dict[int, _Holders] = dict(self._weights(plan, everywhere))
        self.running: list[str | None] = []
        """For each running call the device of its unit; None: the call of no unit."""

    def _weights(self, plan: Plan, everywhere: frozenset[str]) -> Iterator[tuple[int, _Holders]]:
        """Yield the weights, where they are read between units: on the host that has them."""
        owner = unit_of_tensors(self.trace.tree, plan.units)
        for number, value in enumerate(self.trace.values):
            if value.origin is Origin.WEIGHT:
                unit = plan.units[owner[value.tensors[0]]]
                yield number, _Holders([] if unit.path in everywhere else [str(unit.run)])

    @property
    def unit(self) -> str | None:
        """The device of the unit that is running; None between units."""
        return next((device for device in reversed(self.running) if device is not None), None)

    def run(self) -> Iterator[Crossing]:
        for index, step in enumerate(self.trace.steps):
            if isinstance(step, Enter):
                yield from self._enter(index, step)
            elif isinstance(step, Leave):
                yield from self._leave(index, step)
            elif self.unit is None:
                yield from self._between(index, step)

    def _enter(self, index: int, step: Enter) -> Iterator[Crossing]:
        owner, outer = self.owners[self.trace.calls[step.call].module], self.unit
        self.running.append(owner)
        for given, seen in step.arguments:
            holders = self.held.setdefault(given, _Holders())
            if owner is None:
                self.held[seen] = holders
            elif outer is None:
                yield from self._bring(index, given, holders, owner)
            elif host_of(outer) != host_of(owner):
                yield Crossing(index, given, outer, owner)

    def _leave(self, index: int, step: Leave) -> Iterator[Crossing]:
        owner, outer = self.running.pop(), self.unit
        for value in dict.fromkeys(step.results):
            if owner is not None and outer is None:
                self.held[value] = _Holders([owner])
            elif owner is not None and outer is not None and host_of(owner) != host_of(outer):
                yield Crossing(index, value, owner, outer)
            elif not self.running:
                yield from self._everywhere(index, value)

    def _between(self, index: int, step: Op) -> Iterator[Crossing]:
        """An operation between units is computed where its tensors are; apart, they come to the first."""
        apart = [(v, h) for v in (*step.inputs, *step.loose) if (h := self.held.get(v)) and h.devices]
        common = self._common(holders for _, holders in apart)
        if apart and not common:
            home = apart[0][1].devices[0]
            for value, holders in apart:
                yield from self._bring(index, value, holders, home)
            common = self._common(holders for _, holders in apart)
        for output in step.outputs:
            self.held[output] = _Holders([*common])

    def _common(self, all_holders: Iterable[_Holders]) -> list[str]:
        """Return the devices of the first that are on hosts which have all."""
        each = list(all_holders)
        return [d for d in each[0].devices if all(host_of(d) in h.hosts() for h in each)] if each else []

    def _bring(self, index: int, value: int, holders: _Holders, target: str) -> Iterator[Crossing]:
        if holders.devices and host_of(target) not in holders.hosts():
            yield Crossing(index, value, holders.devices[0], target)
            holders.devices.append(target)

    def _everywhere(self, index: int, value: int) -> Iterator[Crossing]:
        """What the model returns goes to all hosts, so that their callers go on alike."""
        holders = self.held.get(value, _Holders())
        for host in self.hosts:
            yield from self._bring(index, value, holders, f"{host}/cpu" if host else "cpu")

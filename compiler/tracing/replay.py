"""Labels every value of a trace with the device it would be on, for one assignment of devices.

Calls of some modules take their arguments to a device (`places` says which), results stay where they
are made, the model's own inputs start where the first such call takes them. A label is any hashable;
``None`` mixes with everything.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias, assert_never

from ...ir import CPU
from ..running.homes import run_around
from .trace import HOST, UNKNOWN, Enter, Leave, Op, Origin, Trace, Value

Label: TypeAlias = Hashable


class Rest(NamedTuple):
    """Where a streamed tensor is while no module that brings it is running."""

    label: Label
    sites: frozenset[int]


@dataclass(frozen=True, slots=True)
class Places:
    """An assignment: where tensors can be read, and where calls take their arguments."""

    tensors: Sequence[Label]
    """Label of each tensor of the tree."""
    targets: Sequence[Label]
    """For each module the device its calls take their arguments to; None: they stay where they are."""
    start: Label
    """Where the model's inputs are."""
    host: Label = None
    """The label of the CPU."""
    homes: Mapping[int, Label] = field(default_factory=dict[int, Label])
    """For each module that is visited: where the results of its calls go back to."""
    spans: Sequence[tuple[range, Label]] = ()
    """Tensors of units with visited parts, and where the units run, the smallest first."""
    resting: Mapping[int, Rest] = field(default_factory=dict[int, Rest])
    """Streamed tensors: what they say when they are asked for their device at rest."""


@dataclass(frozen=True, slots=True)
class Meeting:
    """An op that would see two devices."""

    step: int
    first: int
    second: int
    """Two values on different devices."""
    labels: tuple[Label, Label]
    """What they were as the op saw them: a tied weight is where the module has it that runs."""


@dataclass(frozen=True, slots=True)
class Hop:
    """A tensor is copied from one device to another."""

    step: int
    value: int
    """The copy."""
    source: int
    """What is copied: the same value, however often it goes."""
    origin: Label
    target: Label


@dataclass(slots=True)
class Labels:
    """What a replay finds."""

    values: list[Label]
    meetings: list[Meeting] = field(default_factory=list)
    hops: list[Hop] = field(default_factory=list)


def replay(trace: Trace, places: Places) -> Labels:
    """Label every value of the trace."""
    return _Replay(trace, places).run()


class _Replay:
    def __init__(self, trace: Trace, places: Places) -> None:
        self.trace = trace
        self.places = places
        self.labels = Labels([self._initial(value) for value in trace.values])
        self.running: list[int] = []
        self.returns: list[Label] = []
        """For each running call where its results go back to; None: they stay."""

    def run(self) -> Labels:
        for index, step in enumerate(self.trace.steps):
            match step:
                case Op():
                    self._op(index, step)
                case Enter():
                    self._enter(index, step)
                    self.running.append(self.trace.calls[step.call].module)
                case Leave():
                    self.running.pop()
                    self._leave(index, step)
                case _:
                    assert_never(step)
        return self.labels

    def _initial(self, value: Value) -> Label:
        if value.origin is Origin.INPUT:
            return self.places.start
        if value.origin is Origin.WEIGHT:
            return self.places.tensors[value.tensors[0]]
        if value.origin is Origin.CONSTANT and value.reference == HOST:
            runs = {self.places.tensors[tensor] for tensor in value.beside}
            left = self.places.host or (CPU if runs else None)  # in a search for cuts it meets every piece
            return runs.pop() if len(runs) == 1 else run_around(self.places.spans, value.beside, left)
        return None

    def _enter(self, index: int, step: Enter) -> None:
        module = self.trace.calls[step.call].module
        labels, target, known, hops = (
            self.labels.values,
            self.places.targets[module],
            0,
            len(self.labels.hops),
        )
        for outer, inner in step.arguments:
            origin = self._read(outer, step.call)
            labels[inner] = origin if target is None else target
            known += origin is not None
            if target is not None and origin is not None and origin != target:
                self.labels.hops.append(Hop(index, inner, outer, origin, target))
        # What finds all its arguments where it runs was called from there: a part of a visited sequence.
        visited = not known or len(self.labels.hops) > hops
        self.returns.append(self.places.homes.get(module) if visited else None)

    def _leave(self, index: int, step: Leave) -> None:
        """Bring the results of a visited module back to where its caller runs."""
        home = self.returns.pop()
        for value in step.results if home is not None else ():
            origin = self.labels.values[value]
            weight = self.trace.values[value].origin is Origin.WEIGHT  # the module keeps it
            if origin is not None and origin != home and not weight:
                self.labels.values[value] = home
                self.labels.hops.append(Hop(index, value, value, origin, home))

    def _read(self, value: int, call: int) -> Label:
        item = self.trace.values[value]
        if item.origin is Origin.CONSTANT and item.reference >= 0:
            if self.labels.values[value] is None:
                self.labels.values[value] = self._asked(item.reference, call)
            return self.labels.values[value]
        if item.origin is not Origin.WEIGHT or len(item.tensors) == 1:
            return self.labels.values[value]
        return self.places.tensors[self._nearest(item.tensors, self.trace.calls[call].module)]

    def _asked(self, value: int, call: int) -> Label:
        """Return what a value says when it is asked for its device."""
        item = self.trace.values[value]
        rest = self.places.resting.get(item.tensors[0]) if item.origin is Origin.WEIGHT else None
        if rest is not None and rest.sites.isdisjoint(self.running):
            return rest.label
        return self._read(value, call)

    def _nearest(self, tensors: tuple[int, ...], module: int) -> int:
        """Of the names of a tied tensor, take the one the running module knows it by."""
        tree = self.trace.tree
        while module >= 0:
            inside = tree.tensors(module)
            found = next((tensor for tensor in tensors if tensor in inside), None)
            if found is not None:
                return found
            module = tree.parents[module]
        return tensors[0]

    def _op(self, index: int, step: Op) -> None:
        seen = [(self._read(value, step.call), value) for value in step.inputs]
        known = [(label, value) for label, value in seen if label is not None]
        free = [(self._read(value, step.call), value) for value in step.loose]
        distant = [(label, value) for label, value in free if label not in (None, self.places.host)]
        together = known + distant
        for label, value in together[1:]:
            if label != together[0][0]:
                self.labels.meetings.append(Meeting(index, together[0][1], value, (together[0][0], label)))
                break
        self._outputs(index, step, self._result(step, together, free))

    def _result(self, step: Op, together: list[tuple[Label, int]], free: list[tuple[Label, int]]) -> Label:
        if step.reference is None:
            return together[0][0] if together else (free[0][0] if free and not step.inputs else None)
        if step.reference == HOST:
            return self.places.host
        if step.reference == UNKNOWN:
            return together[0][0] if together else None
        return self._asked(step.reference, step.call)

    def _outputs(self, index: int, step: Op, result: Label) -> None:
        labels = self.labels.values
        moves = step.name == "to"
        origin = self._read(step.inputs[0], step.call) if moves and step.inputs else None
        for value in step.outputs:
            labels[value] = result
            if moves and None not in (origin, result) and origin != result:
                self.labels.hops.append(Hop(index, value, step.inputs[0], origin, result))

"""What is alive at each step, and the pieces on whose device it can be, whatever a plan puts together.

A demand belongs to a piece and has to be enough on any device the piece may get. What an open module
does between its parts runs where its inputs are; which piece that follows depends on the plan: each
possible one is charged.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from .crossings import copies_beside, entered
from .cuts import Cuts
from .replay import replay
from .trace import Enter, Op, Origin, Trace
from .writes import Write


class Carriers:
    """For each value the pieces of which one is on its device under any plan along the cuts."""

    def __init__(self, trace: Trace, cuts: Cuts) -> None:
        self.trace = trace
        self._tops = cuts.tops()
        places = cuts.places("held pieces")
        self._pieces = places.tensors
        self._labels = replay(trace, places).values
        self._also: dict[int, frozenset[int]] = {}
        for step in trace.steps:
            if isinstance(step, Enter):
                self._enter(step)
            elif isinstance(step, Op):
                source = self._source(step)
                pieces = frozenset[int]() if source is None else self._also.get(source, frozenset())
                for made in step.outputs:
                    self._set(made, pieces)

    def of_step(self, step: Op) -> frozenset[int]:
        """Return the pieces that may be on the device an op runs on."""
        value = next(iter((*step.outputs, *step.inputs)), None)
        return frozenset() if value is None else self._of(value)

    def _of(self, value: int) -> frozenset[int]:
        label = self._labels[value]
        return self._also.get(value, frozenset()) | ({label} if isinstance(label, int) else set())

    def _set(self, value: int, pieces: frozenset[int]) -> None:
        if pieces:
            self._also[value] = pieces

    def _source(self, step: Op) -> int | None:
        """Return the value whose device the results of an op follow: of several the most certain."""
        if step.reference is not None:
            return step.reference if step.reference >= 0 else None
        known = [v for v in step.inputs if self._labels[v] is not None] or [*step.inputs, *step.loose]
        return min(known, key=lambda v: len(self._also.get(v, ())), default=None)

    def _enter(self, step: Enter) -> None:
        module, tree = self.trace.calls[step.call].module, self.trace.tree
        if self._tops[module] >= 0 and len(tree.tensors(module)):
            return
        around = entered(self.trace, module)
        first = None if around is None else self._first(around)
        for outer, inner in step.arguments:
            label = self._labels[outer]
            inside = isinstance(label, int) and around is not None and self._lies_in(label, around)
            more = frozenset() if first is None or inside else frozenset({first})
            self._set(inner, self._also.get(outer, frozenset()) | more)

    def _first(self, module: int) -> int | None:
        """Return a piece in a module: of its first tensor that is not tied to one before."""
        tree = self.trace.tree
        tensors = tree.tensors(module)
        tensor = next((t for t in tensors if tree.storages[t] == t), tensors[0])
        piece = self._pieces[tensor]
        return piece if isinstance(piece, int) else None

    def _lies_in(self, piece: int, module: int) -> bool:
        owner = piece if piece >= 0 else self.trace.tree.owners[-1 - piece]
        return module <= owner < self.trace.tree.ends[module]


def needs(trace: Trace, cuts: Cuts) -> list[int]:
    """Return the bytes alive at each step that may be on one device, the cache left out.

    Inputs and activations, each storage once, and what copies of arguments and results of a unit and of
    visited parts in it may take beyond that.
    """
    extra = copies_beside(trace, cuts.tops(), _counted(trace))
    return [nbytes + more for nbytes, more in zip(_alive(trace), extra, strict=False)]


def _alive(trace: Trace) -> list[int]:
    change = [0] * (len(trace.steps) + 2)

    def hold(nbytes: int, born: int, died: int) -> None:
        change[max(born, 0)] += nbytes
        change[died + 1] -= nbytes

    counted = _counted(trace)
    for root in counted:
        hold(trace.values[root].nbytes, *trace.lives[root])
    for step in trace.steps:
        for made in step.outputs if isinstance(step, Op) and step.name == "to" else ():
            if trace.roots[made] not in counted:
                value = trace.values[made]
                hold(value.own_nbytes, value.born, value.died)
    for old, since in _replaced(trace):
        hold(trace.values[old].nbytes, since, max(since - 1, trace.lives[old][1]))
    return list(accumulate(change))


def _replaced(trace: Trace) -> Iterator[tuple[int, int]]:
    """Yield former states and the step that makes what takes their place: until it lets go both are there.

    What is kept may come of a state by many steps: a window is cut from the state with the new joined on.
    """
    kept = {trace.roots[value] for value in trace.cache}
    olds = [root for root in trace.lives if trace.values[root].origin is Origin.STATE and root not in kept]
    untold, within = set(olds), {root: frozenset({root}) for root in olds}
    for step in trace.steps if olds else ():
        if not isinstance(step, Op):
            continue
        sources = {within.get(trace.roots[value], frozenset()) for value in (*step.inputs, *step.loose)}
        read = frozenset[int]().union(*sources) & untold
        made = (*step.outputs, *step.written) if isinstance(step, Write) else step.outputs
        for root in dict.fromkeys(trace.roots[value] for value in made) if read else ():
            within[root] = within.get(root, frozenset()) | read
            if root in kept and trace.values[root].origin is Origin.OP:
                untold -= read
                yield from ((old, trace.lives[root][0]) for old in sorted(read))


def _counted(trace: Trace) -> set[int]:
    """Return the first values of the storages that are inputs or activations and no cache."""
    kept = {trace.roots[value] for value in trace.cache}
    made = {Origin.OP, Origin.INPUT}
    return {root for root in trace.lives if trace.values[root].origin in made and root not in kept}

"""Modules that must be opened where they may be: as one unit they would not move what they work on.

The loader moves the arguments of a call that it can see. A module whose children are called past it has
no call of its own; one that is handed an object with tensors in it has nothing to see. Below them calls
with tensors as arguments follow, and those move.
"""

from __future__ import annotations

from collections.abc import Iterator

from ...ir import Split
from .cuts import Cuts
from .trace import Enter, Leave, Op, Origin, Step, Trace


def splits(trace: Trace, cuts: Cuts) -> Iterator[Split]:
    """Yield the modules to open, in tree order."""
    tops = cuts.tops()
    for module in sorted({*_passed_by(trace), *handed_unseen(trace)}):
        if module > 0 and tops[module] < 0:
            yield Split(trace.tree.paths[module])


def _passed_by(trace: Trace) -> Iterator[int]:
    """Yield modules past which something in them is called: the call is not seen as one of theirs."""
    running: list[frozenset[int]] = []
    for call in trace.calls:
        around = running[call.parent] if call.parent >= 0 else frozenset[int]()
        running.append(around | {call.module})
        above = trace.tree.parents[call.module]
        while above > 0 and above not in around:
            if above not in trace.kinds.open:
                yield above
            above = trace.tree.parents[above]


def handed_unseen(trace: Trace) -> set[int]:
    """Return the modules in whose calls tensors are used that came neither as arguments nor from inside."""
    found: set[int] = set()
    for step in trace.steps:
        for value in _used(step):
            item = trace.values[value]
            if item.origin in {Origin.WEIGHT, Origin.CONSTANT}:
                continue
            call = trace.calls[step.call].parent if isinstance(step, Enter) else step.call
            while call > 0 and trace.calls[call].first > item.born:
                found.add(trace.calls[call].module)
                call = trace.calls[call].parent
    return found


def _used(step: Step) -> tuple[int, ...]:
    match step:
        case Enter():
            return tuple(outer for outer, _ in step.arguments)
        case Op():
            return step.inputs
        case Leave():
            return ()

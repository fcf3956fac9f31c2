"""Weights that must not be streamed: a module reads them, or asks for their device, past their owner.

A streamed weight is on its device only while a module that brings it is running.
"""

from __future__ import annotations

from collections.abc import Iterator

from ...ir import STREAMING, Never
from .cuts import Cuts
from .trace import Op, Origin, Trace


def never_streamed(trace: Trace, cuts: Cuts) -> Iterator[Never]:
    """Yield a rule for each piece with such weights, in tree order."""
    tops, owners = cuts.tops(), trace.tree.owners
    found: set[str] = set()
    for step in trace.steps:
        for value in _read(trace, step) if isinstance(step, Op) else ():
            names = trace.values[value].tensors  # a tied weight is brought by each module that has it
            pieces = [tops[owners[name]] if tops[owners[name]] >= 0 else owners[name] for name in names]
            if not any(_is_running(trace, step.call, piece) for piece in pieces):
                top = tops[owners[names[0]]]
                found.add(trace.tree.paths[top] if top >= 0 else trace.tree.tensor_paths[names[0]])
    order = {path: number for number, path in enumerate((*trace.tree.paths, *trace.tree.tensor_paths))}
    yield from (Never(path, STREAMING) for path in sorted(found, key=order.__getitem__))


def _read(trace: Trace, step: Op) -> Iterator[int]:
    asked = () if step.reference is None or step.reference < 0 else (step.reference,)
    for value in (*step.inputs, *step.loose, *asked):
        item = trace.values[value]
        if item.origin is Origin.CONSTANT and item.reference >= 0:
            value = item.reference  # noqa: PLW2901  made where that is
        if trace.values[value].origin is Origin.WEIGHT:
            yield value


def _is_running(trace: Trace, call: int, module: int) -> bool:
    while call >= 0:
        if trace.calls[call].module == module:
            return True
        call = trace.calls[call].parent
    return False

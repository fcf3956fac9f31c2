"""What a forward needs besides weights, as demands of the modules that run it.

A KV cache adds up over layers; activations and scores are there only while a module runs, so a
device needs the largest of them, and the ledger knows the difference by their purpose.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Final

from ...ir import Demand
from .atoms import Cuts
from .replay import replay
from .trace import Op, Origin, Trace

UPCAST: Final = 4
"""Bytes of a score in float32: losses and samplers widen scores before they use them."""


def demands(trace: Trace, cache: Trace | None = None) -> tuple[Demand, ...]:
    """Return the demands of a traced forward; the KV cache from a trace at its full length if given.

    A trace at the full length is exact for layers that keep a window or a state of fixed size, where
    multiplying bytes per token would not be.
    """
    return (*_activations(trace), *_logits(trace), *cache_demands(trace if cache is None else cache))


def cache_demands(trace: Trace) -> tuple[Demand, ...]:
    """Return the bytes each module leaves behind for the next call."""
    totals: dict[int, int] = {}
    for value in trace.cache:
        maker = trace.maker(value)
        if maker >= 0 and trace.values[value].origin is Origin.OP:
            totals[maker] = totals.get(maker, 0) + trace.values[value].own_nbytes
    return tuple(
        Demand(nbytes, trace.tree.paths[module], "kv cache") for module, nbytes in sorted(totals.items())
    )


def _logits(trace: Trace) -> Iterator[Demand]:
    for value in trace.logits:
        maker, item = trace.maker(value), trace.values[value]
        head = _head(trace, value)
        if maker < 0 or item.own_nbytes == 0:
            continue
        width = item.width
        upcast = item.own_nbytes // width * UPCAST if width < UPCAST else 0
        yield Demand(item.own_nbytes + upcast, trace.tree.paths[head], "logits")


def _head(trace: Trace, value: int) -> int:
    """Return the module with weights that made the scores: scaling them later does not move them."""
    tree = trace.tree
    maker = trace.maker(value)
    if len(tree.own_tensors(maker)):
        return maker
    for module in reversed(trace.order):
        if len(tree.own_tensors(module)) and _makes(trace, module, trace.values[value].own_nbytes):
            return module
    return maker


def _makes(trace: Trace, module: int, nbytes: int) -> bool:
    return any(
        trace.values[made].own_nbytes == nbytes
        for call in trace.calls
        if call.module == module
        for step in trace.steps[call.first : call.last]
        for made in getattr(step, "outputs", ())
    )


def _activations(trace: Trace) -> Iterator[Demand]:
    """Yield the largest need of each piece that may get a device of its own."""
    alive, peak = _alive(trace), dict[int, int]()
    cuts = Cuts(trace).settle()
    tops = cuts.tops()
    for call in trace.calls:
        if tops[call.module] == call.module:
            need = _largest(alive, call.first, call.last)
            peak[call.module] = max(peak.get(call.module, 0), need)
    labels = replay(trace, cuts.places("held pieces")).values
    for number, step in enumerate(trace.steps):
        between = isinstance(step, Op) and (step.call < 0 or tops[trace.calls[step.call].module] < 0)
        if isinstance(step, Op) and between:
            made = next((labels[value] for value in (*step.outputs, *step.inputs)), None)
            if isinstance(made, int):
                peak[made] = max(peak.get(made, 0), alive[number])
    for piece, nbytes in sorted(peak.items()):
        if nbytes and (piece < 0 or len(trace.tree.tensors(piece))):
            yield Demand(nbytes, cuts.path(piece), "activations")


def _alive(trace: Trace) -> list[int]:
    """Return the bytes of inputs and activations alive at each step, the cache left out."""
    change = [0] * (len(trace.steps) + 2)
    kept = {trace.roots[value] for value in trace.cache}
    for root, (born, died) in trace.lives.items():
        if trace.values[root].origin in {Origin.OP, Origin.INPUT} and root not in kept:
            change[max(born, 0)] += trace.values[root].nbytes
            change[died + 1] -= trace.values[root].nbytes
    return list(accumulate(change))


def _largest(alive: Sequence[int], first: int, last: int) -> int:
    return max(alive[first : last + 1], default=0)

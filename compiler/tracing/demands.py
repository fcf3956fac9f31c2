"""What a forward needs besides weights, as demands of the modules that run it.

A KV cache adds up over layers; activations and scores are there only while a module runs, so a
device needs the largest of them, and the ledger knows the difference by their purpose.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from ...ir import Demand
from ...ir.purposes import ACTIVATIONS, GRADIENTS, KV_CACHE, LOGITS, ON_HOST, ON_ONE, ON_ONE_HOST, OPTIMIZER
from .carriers import Carriers, needs
from .cuts import Cuts
from .moments import Moments, Training
from .one_device import on_one_device
from .trace import Op, Origin, Trace
from .training import Lasting, training_demands


def demands(moments: Moments, cuts: Cuts | None = None) -> tuple[Demand, ...]:
    """Return the demands of a workload: the largest of its moments' activations and scores, its cache.

    The cache is measured at its full length, which is exact for layers that keep a window or a state of
    fixed size, where multiplying bytes per token would not be. ``cuts`` are the settled ones, if known.
    """
    cuts = Cuts(moments.main).settle() if cuts is None else cuts
    momentary = [
        demand
        for trace in moments.traces
        for demand in (*_activations(trace, cuts.of(trace)), *_logits(trace, moments))
    ]
    if moments.training is None:
        cache = cache_demands(moments.main, moments.cache_nbytes)
        return (*_largest(momentary), *cache, *_on_one_device(moments, cache))
    of = moments.training
    lasting = training_demands(of.ran, of.kept, of.trainable, of.optimizer, cuts)
    return (*_backward(_largest(momentary), lasting), *lasting.demands, *_of_a_step(of, lasting))


def _backward(momentary: Iterable[Demand], lasting: Lasting) -> Iterator[Demand]:
    """Yield what pieces need while they go backward: each result has its gradient beside it."""
    left = dict(lasting.beside)
    for each in momentary:
        yield replace(each, nbytes=2 * each.nbytes + lasting.beside.get(each.path, 0))
        left.pop(each.path, None)
    yield from (Demand(nbytes, path, ACTIVATIONS) for path, nbytes in left.items() if nbytes)


def _of_a_step(training: Training, lasting: Lasting) -> Iterator[Demand]:
    """Yield what one device needs for a whole step beside gradients and the optimizer's state."""
    if training.peaks is None:
        return
    stays = lasting.of(GRADIENTS, OPTIMIZER)
    yield Demand(max(0, training.peaks.card - stays), "", ON_ONE)
    yield Demand(max(0, training.peaks.host - stays), "", ON_ONE_HOST)


def _on_one_device(moments: Moments, cache: Iterable[Demand]) -> Iterator[Demand]:
    cached = sum(each.nbytes for each in cache)
    if moments.own:
        nothing = [()] * len(moments.own)
        traces, first = zip(*moments.own, strict=True)
        after = dict.fromkeys((False, True), nothing)
        yield from on_one_device(
            traces, cached, later=1, held=nothing, left=nothing, after=after, grows=False, first=first
        )
        return
    yield from on_one_device(
        moments.traces,
        cached,
        later=len(moments.later),
        held=[moments.held_in(trace) for trace in moments.traces],
        left=[moments.left_in(trace) for trace in moments.traces],
        after={
            on_host: [moments.made_after(trace, on_host=on_host) for trace in moments.traces]
            for on_host in (False, True)
        },
        grows=moments.cache_nbytes is not None and not moments.later,
    )


def _largest(demands: Iterable[Demand]) -> Iterator[Demand]:
    """Yield the largest demand of each path and purpose, in the order they first come."""
    largest: dict[tuple[str, str], Demand] = {}
    for demand in demands:
        key = demand.purpose, demand.path
        largest[key] = max(largest.get(key, demand), demand, key=lambda each: each.nbytes)
    yield from sorted(largest.values(), key=lambda each: each.purpose)  # stable: paths stay in order


def cache_demands(trace: Trace, nbytes: tuple[int, ...] | None = None) -> tuple[Demand, ...]:
    """Return the bytes each module leaves behind for the next call; ``nbytes`` are those of each value."""
    totals: dict[int, int] = {}
    sizes = trace.cache_nbytes if nbytes is None else nbytes
    for value, size in zip(trace.cache, sizes, strict=True):
        maker = trace.maker(value)
        if maker >= 0 and trace.values[value].origin is Origin.OP:
            totals[maker] = totals.get(maker, 0) + size
    return tuple(
        Demand(nbytes, trace.tree.paths[module], KV_CACHE) for module, nbytes in sorted(totals.items())
    )


def _logits(trace: Trace, moments: Moments) -> Iterator[Demand]:
    after = sum(moments.made_after(trace, on_host=False))
    for value in trace.logits:
        maker, item = trace.maker(value), trace.values[value]
        if maker >= 0 and item.own_nbytes:
            yield Demand(item.own_nbytes + after, trace.tree.paths[_head(trace, value)], LOGITS)


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


def _activations(trace: Trace, cuts: Cuts) -> Iterator[Demand]:
    """Yield the largest need of each piece that may get a device of its own, and on the CPU if it differs."""
    need = needs(trace, cuts)
    card, host = ([*need], [*need])
    for number, step in enumerate(trace.steps):
        if isinstance(step, Op):
            card[number] += sum(step.on_card)
            host[number] += sum(step.on_host)
    yield from _peaks(trace, cuts, card, ACTIVATIONS)
    if any(there > here for here, there in zip(card, host, strict=True)):
        yield from _peaks(trace, cuts, host, ON_HOST)


def _peaks(trace: Trace, cuts: Cuts, need: list[int], purpose: str) -> Iterator[Demand]:
    peak = dict[int, int]()
    for piece, first, last in _runs(trace, cuts):
        peak[piece] = max(peak.get(piece, 0), max(need[first : last + 1], default=0))
    for piece, nbytes in sorted(peak.items()):
        if nbytes:
            yield Demand(nbytes, cuts.path(piece), purpose)


def _runs(trace: Trace, cuts: Cuts) -> Iterator[tuple[int, int, int]]:
    """Yield which piece's device may run which steps: first and last."""
    tree, tops = trace.tree, cuts.tops()
    held = [top >= 0 and len(tree.tensors(top)) > 0 for top in tops]
    for call in trace.calls:
        if tops[call.module] == call.module and held[call.module]:
            yield call.module, call.first, call.last
    carriers = Carriers(trace, cuts)
    for number, step in enumerate(trace.steps):
        if isinstance(step, Op):
            module = trace.calls[step.call].module if step.call >= 0 else 0
            pieces = (tops[module],) if held[module] else carriers.of_step(step)
            yield from ((piece, number, number) for piece in pieces)

"""What a workload has alive at once where everything runs on one device: known to the byte.

Every storage of a traced forward counts from the step that makes it to the one that lets it go, the cache as
long as it is by then. A demand says by how much that exceeds the cache at its longest, which stands in lines
of its own: an empty room behind the prompt's activations is where the cache of what is written grows. On
accelerators each storage takes what torch's allocator rounds it to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from ...ir import Demand
from ...ir.purposes import ON_ONE, ON_ONE_HOST, WRITING, WRITING_HOST
from ..machine.allocator import ROUND
from .holdings import holdings
from .trace import Trace


class Highest(NamedTuple):
    """The highest point of a forward."""

    nbytes: int
    path: str
    """The module that runs there."""


def on_one_device(
    traces: Sequence[Trace],
    cached: int,
    *,
    later: int,
    held: Sequence[Sequence[int]],
    left: Sequence[Sequence[int]],
    after: Mapping[bool, Sequence[Sequence[int]]],
    grows: bool,
    first: Sequence[int] = (),
) -> Iterator[Demand]:
    """Yield what one device needs beside weights and ``cached`` bytes of cache; for the CPU if it differs.

    The last ``later`` traces write a token, those before read what is given: each has its demand. By trace,
    ``held`` are the bytes of each thing that whoever called has all the time, ``left`` of what it has until
    it makes ``after`` of the scores it was given, by whether it is the CPU that does. Where the cache
    ``grows`` past the last trace, nobody saw what is beside it then: it counts beside the largest. ``first``
    are the steps from which on each trace tells, where that is not from its beginning.
    """
    begins = first or [0] * len(traces)
    card, host = (
        [
            _highest(*moment, on_host=on_host)
            for moment in zip(traces, held, left, after[on_host], begins, strict=True)
        ]
        for on_host in (False, True)
    )
    reads, beside = len(traces) - later, sum(traces[0].cache_nbytes) if grows else cached
    for there, given, writes in ((card, ON_ONE, WRITING), (host, ON_ONE_HOST, WRITING_HOST)):
        if there is host and max(host).nbytes == max(card).nbytes:
            continue
        for moments, purpose in ((there[:reads], given), (there[reads:], writes)):
            if moments:
                most = max(moments)
                yield Demand(max(0, most.nbytes - beside), most.path, purpose)


def _highest(
    trace: Trace,
    held: Sequence[int],
    left: Sequence[int],
    after: Sequence[int],
    first: int,
    *,
    on_host: bool,
) -> Highest:
    """Return the highest point of a forward, and of what its caller has and makes of its scores."""
    alive = _alive(trace, on_host=on_host)
    there, before, behind = (
        sum(_rounded(each, on_host=on_host) for each in sizes) for sizes in (held, left, after)
    )
    top = max(range(first, len(trace.steps)), key=alive.__getitem__, default=0)
    found = Highest(there + before + alive[top], _path(trace, top))
    return max(found, Highest(there + behind + alive[len(trace.steps)], trace.tree.paths[0]))


def _alive(trace: Trace, *, on_host: bool) -> list[int]:
    """Return the bytes alive at each step; the last is what a forward leaves behind."""
    change = [0] * (len(trace.steps) + 2)
    for nbytes, born, died in holdings(trace, on_host=on_host):
        held = _rounded(nbytes, on_host=on_host)
        change[born] += held
        change[died + 1] -= held
    return list(accumulate(change))


def _rounded(nbytes: int, *, on_host: bool) -> int:
    whole = 1 if on_host else ROUND
    return -(-nbytes // whole) * whole


def _path(trace: Trace, step: int) -> str:
    call = trace.steps[step].call if trace.steps else -1
    return trace.path(call) if call >= 0 else trace.tree.paths[0]

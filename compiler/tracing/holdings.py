"""What a forward holds from one step to another where everything runs on one device, weights left aside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from .trace import HOST, Op, Origin, Trace

_COUNTED: Final = frozenset({Origin.OP, Origin.INPUT, Origin.STATE})


class Alive(NamedTuple):
    """Some bytes, and the steps they are there, both included."""

    nbytes: int
    born: int
    died: int


def holdings(trace: Trace, *, on_host: bool = False) -> Iterator[Alive]:
    """Yield every storage, and what ops take beside; on a card also its copies of constants of the host."""
    for root, (born, died) in trace.lives.items():
        value = trace.values[root]
        if value.nbytes and (value.origin in _COUNTED or value.is_made_of_numbers):
            yield Alive(value.nbytes, max(born, 0), died)
    for number, step in enumerate(trace.steps):
        if not isinstance(step, Op):
            continue
        for beside in step.on_host if on_host else step.on_card:
            yield Alive(beside, number, number)
        for made in step.outputs if step.name == "to" and not on_host else ():
            value = trace.values[made]
            if value.own_nbytes and trace.values[trace.roots[made]].reference == HOST:
                yield Alive(value.own_nbytes, max(value.born, 0), value.died)

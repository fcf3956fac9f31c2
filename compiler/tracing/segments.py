"""What a traced workload asks of an accelerator's allocator, in order, and what that holds beyond."""

from __future__ import annotations

from collections.abc import Sequence

from ..machine.allocator import LARGE_SEGMENT, LAYOUT, WORKSPACES, Event, beyond, segment
from .holdings import holdings
from .trace import Op, Origin, Trace


def held_beyond(traces: Sequence[Trace], step: Sequence[Event] = ()) -> int:
    """Return the bytes an accelerator must have beyond what is alive at once for these forwards.

    Where there is one, ``step`` is what a step of training with the first one's weights makes and lets go.
    What ops have inside is played as if it came at once: one more segment of the largest of it stands for
    its order.
    """
    runs = [*map(events_of, traces), *([list(step)] if step else [])]
    steps = (each for trace in traces for each in trace.steps if isinstance(each, Op))
    inside = max((nbytes for each in steps for nbytes in each.on_card), default=0)
    return WORKSPACES + LAYOUT + beyond(_weights(traces), runs) + min(segment(inside), LARGE_SEGMENT)


def _weights(traces: Sequence[Trace]) -> list[int]:
    return [
        trace.values[root].nbytes
        for trace in traces[:1]
        for root in trace.lives
        if trace.values[root].origin is Origin.WEIGHT and trace.values[root].nbytes
    ]


def events_of(trace: Trace) -> list[Event]:
    """Return what is made and let go in the order of a forward; at one step what ends makes room first."""
    found = list[tuple[int, int, int]]()
    for number, (nbytes, born, died) in enumerate(holdings(trace)):
        found.append((born, number, nbytes))
        found.append((died + 1, number, 0))
    found.sort(key=lambda each: (each[0], each[2] > 0))
    return [(number, nbytes) for _, number, nbytes in found]

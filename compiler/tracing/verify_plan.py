"""Replays a traced forward under a plan: where devices would meet, what moves, what it needs.

Everything follows from labels: no device is touched. Peaks count what the forward allocates and
keeps; kernels' private workspace is not visible to a trace.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...ir import Demand, Diagnostic, Diagnostics, Plan, PlanError, Reserve, host_of, unit_of_tensors
from ...ir.purposes import KV_CACHE
from ..placing.ledger_runs import Runs
from .labels import places_of_plan, resting
from .meetings import Replayed, meetings, path_of_step, peaks_exceeded, weights_away, writes_lost
from .peaks import Peak, peaks
from .replay import Hop, Labels, Places, replay
from .streaming_sites import Streaming, streaming_of
from .trace import Trace
from .wires import Crossing, crossings

if TYPE_CHECKING:
    from torch import nn

    from .inputs.example_inputs import Inputs


@dataclass(frozen=True, slots=True)
class Copy:
    """A tensor that moves between devices during the forward."""

    path: str
    """The module whose call or op needed it there."""
    origin: str
    target: str
    nbytes: int
    again: bool = False
    """Whether it went there before: what every layer takes, and computing is there already."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What the forward would do under a plan."""

    diagnostics: tuple[Diagnostic, ...]
    copies: tuple[Copy, ...]
    """Every copy of an activation, in order."""
    streamed: tuple[tuple[str, int], ...]
    """Bytes of weights each device fetches in one forward."""
    peaks: tuple[Peak, ...]
    """The highest point of each device."""

    @property
    def lawful(self) -> bool:
        """Say whether the plan runs: no devices meet, no weights are away."""
        return not any(d.severity == "error" for d in self.diagnostics)

    @property
    def hops(self) -> int:
        """How often computing changes devices: copies of one module's arguments count once.

        What went to a device before, as the tables of positions that every layer takes, is no change.
        """
        places = [(copy.path, copy.target) for copy in self.copies if not copy.again]
        return sum(1 for i, place in enumerate(places) if i == 0 or place != places[i - 1])

    @property
    def crossing(self) -> tuple[Copy, ...]:
        """What goes from one host to another: what the call returns goes to every host."""
        return tuple(copy for copy in self.copies if host_of(copy.origin) != host_of(copy.target))

    @property
    def moved_nbytes(self) -> int:
        """Bytes of activations copied between devices."""
        return sum(copy.nbytes for copy in self.copies)


def verify_plan(
    plan: Plan, model: nn.Module, inputs: Inputs = None, *, batch: int | None = None, seq: int | None = None
) -> Verification:
    """Trace the model and replay its forward under the plan.

    Without ``inputs`` they are made from the model's config for ``batch`` rows of ``seq`` tokens; what
    is not given is what the plan was compiled for. The forward is the one of the plan's workload: where that
    is to generate only the last position's scores are made, without one those of all.

    Raises:
        PlanError: the model cannot be traced.

    """
    from .moments import Use, try_moments

    asked, said, diagnostics = dict(plan.options), plan.workload, Diagnostics()
    work = said if said is not None and not said.added else None
    read = None if work is None else (work.prompt if work.kind == "generate" else work.tokens) or None
    moments = try_moments(
        model,
        inputs,
        diagnostics,
        batch=batch or (_number(asked, "batch") if work is None else work.rows) or 1,
        seq=seq or _number(asked, "seq") or read,
        dtype=asked.get("dtype"),
        use=Use(last=False) if work is None else Use(work.kind),
    )
    if moments is None:
        raise PlanError(tuple(diagnostics))
    return verify_trace(plan, moments.main)


def _number(options: dict[str, str], name: str) -> int | None:
    """Read an option as a file may hold it: another program may have written anything."""
    text = options.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else None


def verify_trace(plan: Plan, trace: Trace) -> Verification:
    """Replay a traced forward under a plan for the same model."""
    streaming = streaming_of(trace, plan)
    places = places_with_rest(trace, plan, streaming)
    labels = replay(trace, places)
    found = _with_cache(trace, plan, peaks(trace, plan, labels, streaming))
    replayed = Replayed(trace, plan, places, labels)
    diagnostics = (
        *meetings(replayed),
        *writes_lost(replayed),
        *weights_away(trace, streaming),
        *peaks_exceeded(plan, found),
    )
    streamed = tuple(sorted(streaming.fetched.items()))
    return Verification(diagnostics, tuple(_copies(trace, plan, places, labels)), streamed, found)


def places_with_rest(trace: Trace, plan: Plan, streaming: Streaming) -> Places:
    """Return where a plan has everything run, and where streamed tensors are at rest."""
    return replace(places_of_plan(trace, plan), resting=resting(trace.tree, plan, streaming.of_tensor))


def _with_cache(trace: Trace, plan: Plan, found: tuple[Peak, ...]) -> tuple[Peak, ...]:
    """Return the peaks with the cache the plan provides for, where the traced one is shorter."""
    runs = Runs(plan, trace.tree, unit_of_tensors(trace.tree, plan.units))
    planned: Counter[str] = Counter()
    items: tuple[Demand | Reserve, ...] = (*plan.demands, *plan.reserves)
    for item in items:
        if item.purpose != KV_CACHE:
            continue
        if isinstance(item, Reserve):
            planned[item.device] += item.nbytes
        else:
            planned[str(runs.lasting(item.path))] += item.nbytes
    return tuple(replace(peak, cache=max(peak.cache, planned[peak.device])) for peak in found)


def _copies(trace: Trace, plan: Plan, places: Places, labels: Labels) -> Iterator[Copy]:
    """Yield what moves within hosts, as the labels say, and between them, as their processes send it."""
    within = [hop for hop in labels.hops if host_of(str(hop.origin)) == host_of(str(hop.target))]
    moves: list[Hop | Crossing] = [*within, *crossings(trace, plan, places)]
    gone: set[tuple[int, str]] = set()
    for move in sorted(moves, key=lambda each: each.step):
        nbytes = trace.values[move.value].own_nbytes
        way = move.source if isinstance(move, Hop) else move.value, str(move.target)
        yield Copy(path_of_step(trace, move), str(move.origin), str(move.target), nbytes, way in gone)
        gone.add(way)

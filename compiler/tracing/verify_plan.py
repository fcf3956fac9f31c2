"""Replays a traced forward under a plan: where devices would meet, what moves, what it needs.

Everything follows from labels: no device is touched. Peaks count what the forward allocates and
keeps; kernels' private workspace is not visible to a trace.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, assert_never

from ...ir import Demand, Diagnostic, Plan, Reserve, human_size, is_within, size_up, unit_of_tensors
from ...ir.rules.tracing import DEVICES_MEET, VERIFIED_PEAK_EXCEEDED, WEIGHTS_AWAY
from .peaks import Peak, peaks
from .places import places_of_plan
from .replay import Hop, Labels, Meeting, Places, replay
from .sites import Streaming, streaming_of
from .trace import Enter, Leave, Op, Origin, Trace

if TYPE_CHECKING:
    from torch import nn

    from .inputs import Inputs


_CACHE: Final = "kv cache"


@dataclass(frozen=True, slots=True)
class Copy:
    """A tensor that moves between devices during the forward."""

    path: str
    """The module whose call or op needed it there."""
    origin: str
    target: str
    nbytes: int


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
        """How often a forward changes devices: copies of one module's arguments count once."""
        places = [(copy.path, copy.origin, copy.target) for copy in self.copies]
        return sum(1 for i, place in enumerate(places) if i == 0 or place != places[i - 1])

    @property
    def moved_nbytes(self) -> int:
        """Bytes of activations copied between devices."""
        return sum(copy.nbytes for copy in self.copies)


def verify_plan(
    plan: Plan, model: nn.Module, inputs: Inputs = None, *, batch: int | None = None, seq: int | None = None
) -> Verification:
    """Trace the model and replay its forward under the plan.

    Without ``inputs`` they are made from the model's config for ``batch`` rows of ``seq`` tokens; what
    is not given is what the plan was compiled for.

    Raises:
        PlanError: the model cannot be traced.

    """
    from .forward import trace_model

    asked = dict(plan.options)
    trace = trace_model(
        model,
        inputs,
        batch=batch or _number(asked, "batch") or 1,
        seq=seq or _number(asked, "seq"),
        dtype=asked.get("dtype"),
    )
    return verify_trace(plan, trace)


def _number(options: dict[str, str], name: str) -> int | None:
    """Read an option as a file may hold it: another program may have written anything."""
    text = options.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else None


def verify_trace(plan: Plan, trace: Trace) -> Verification:
    """Replay a traced forward under a plan for the same model."""
    places = places_of_plan(trace, plan)
    labels, streaming = replay(trace, places), streaming_of(trace, plan)
    found = _with_cache(trace, plan, peaks(trace, plan, labels, streaming))
    diagnostics = [*_meetings(trace, places, labels), *_away(trace, streaming), *_over(plan, found)]
    streamed = tuple(sorted(streaming.fetched.items()))
    return Verification(tuple(diagnostics), tuple(_copies(trace, labels)), streamed, found)


def _with_cache(trace: Trace, plan: Plan, found: tuple[Peak, ...]) -> tuple[Peak, ...]:
    """Return the peaks with the cache the plan provides for, where the traced one is shorter."""
    owner = unit_of_tensors(trace.tree, plan.units)
    planned: Counter[str] = Counter()
    items: tuple[Demand | Reserve, ...] = (*plan.demands, *plan.reserves)
    for item in items:
        if item.purpose != _CACHE:
            continue
        if isinstance(item, Reserve):
            planned[item.device] += item.nbytes
        else:
            held = trace.tree.covered(item.path)
            planned[str(plan.units[owner[held.start]].run) if held else ""] += item.nbytes
    return tuple(replace(peak, cache=max(peak.cache, planned[peak.device])) for peak in found)


def _copies(trace: Trace, labels: Labels) -> Iterator[Copy]:
    for hop in labels.hops:
        yield Copy(
            _path_of_step(trace, hop), str(hop.origin), str(hop.target), trace.values[hop.value].own_nbytes
        )


def _path_of_step(trace: Trace, item: Hop | Meeting) -> str:
    step = trace.steps[item.step]
    return trace.path(step.call) if step.call >= 0 else ""


def _meetings(trace: Trace, places: Places, labels: Labels) -> Iterator[Diagnostic]:
    """Yield one finding for each op of each module, however often it is called."""
    told: set[tuple[str, str, str, str]] = set()
    for meeting in labels.meetings:
        op = trace.steps[meeting.step]
        assert isinstance(op, Op)  # noqa: S101  only ops meet
        where = _path_of_step(trace, meeting)
        first, second = _made_by(trace, meeting.first), _made_by(trace, meeting.second)
        if (where, op.name, first, second) in told:
            continue
        told.add((where, op.name, first, second))
        one, other = (_device(trace, labels, places, op, value) for value in (meeting.first, meeting.second))
        yield Diagnostic(
            DEVICES_MEET,
            f"`{op.name}` in {_module(where)} gets a tensor on {one} and one on {other}",
            notes=(f"{one}: {first}", f"{other}: {second}"),
            help=f"place {_module(where)} whole on one device: `atomic {where}`"
            if where
            else f"place both on {one}",
        )


def _device(trace: Trace, labels: Labels, places: Places, op: Op, value: int) -> str:
    label = labels.values[value]
    if trace.values[value].origin is Origin.WEIGHT:
        label = places.tensors[_known_as(trace, value, trace.path(op.call))]
    return str(label)


def _known_as(trace: Trace, value: int, path: str) -> int:
    tensors = trace.values[value].tensors
    return next((t for t in tensors if is_within(trace.tree.tensor_paths[t], path)), tensors[0])


def _module(path: str) -> str:
    return f"`{path}`" if path else "the model's own forward"


def _made_by(trace: Trace, value: int) -> str:
    item = trace.values[value]
    if item.origin is Origin.WEIGHT:
        return f"weight `{trace.tree.tensor_paths[item.tensors[0]]}`"
    if item.origin is Origin.CONSTANT:
        return "a tensor that is neither parameter nor buffer"
    maker = trace.maker(value)
    return "an input of the model" if maker < 0 else f"made in {_module(trace.tree.paths[maker])}"


def _away(trace: Trace, streaming: Streaming) -> Iterator[Diagnostic]:
    """Yield streamed weights that are read while no module that brings them is running."""
    objects = trace.tree.objects or trace.tree.storages
    running: list[int] = []
    told: set[tuple[str, str]] = set()
    for step in trace.steps if streaming.sites else ():
        match step:
            case Enter():
                running.append(trace.calls[step.call].module)
            case Leave():
                running.pop()
            case Op():
                for value in (*step.inputs, *step.loose):
                    tensors = trace.values[value].tensors
                    bringing = streaming.of_tensor.get(objects[tensors[0]]) if tensors else None
                    where = trace.path(step.call) if step.call >= 0 else ""
                    path = trace.tree.tensor_paths[tensors[0]] if tensors else ""
                    if bringing is None or bringing.intersection(running) or (where, path) in told:
                        continue
                    told.add((where, path))
                    yield _unreachable(where, path, step.name)
            case _:
                assert_never(step)


def _unreachable(where: str, path: str, op: str) -> Diagnostic:
    return Diagnostic(
        WEIGHTS_AWAY,
        f"{_module(where)} reads `{path}`, which is streamed and not loaded then",
        notes=(f"`{op}` uses it without calling the module it belongs to",),
        help=f"place `{path.rpartition('.')[0] or path}` on the device that runs {_module(where)}",
    )


def _over(plan: Plan, found: tuple[Peak, ...]) -> Iterator[Diagnostic]:
    budgets = {device.name: device.memory for device in plan.devices}
    for peak in found:
        budget = budgets.get(peak.device)
        if budget is None or peak.nbytes <= budget:
            continue
        missing = size_up(peak.nbytes - budget)
        yield Diagnostic(
            VERIFIED_PEAK_EXCEEDED,
            f"{peak.device} peaks at {human_size(peak.nbytes)} in {_module(peak.path)}, "
            f"it has {human_size(budget)}",
            notes=(peak.account(),),
            help=f'write `reserve {missing} on {peak.device} for "activations"` and plan again',
        )

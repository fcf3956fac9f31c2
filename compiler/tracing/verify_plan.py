"""Replays a traced forward under a plan: where devices would meet, what moves, what it needs.

Everything follows from labels: no device is touched. Peaks count what the forward allocates and
keeps; kernels' private workspace is not visible to a trace.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...ir import Diagnostic, Plan, Unit, human_size, is_within, size_up, unit_of_tensors
from ...ir.rules.tracing import DEVICES_MEET, VERIFIED_PEAK_EXCEEDED, WEIGHTS_AWAY
from .peaks import Peak, peaks, unit_nbytes
from .places import places_of_plan, unit_modules
from .replay import Hop, Labels, Meeting, replay
from .trace import Op, Origin, Trace

if TYPE_CHECKING:
    from torch import nn

    from .inputs import Inputs


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


def verify_plan(plan: Plan, model: nn.Module, inputs: Inputs = None) -> Verification:
    """Trace the model and replay its forward under the plan.

    Raises:
        PlanError: the model cannot be traced.

    """
    from .forward import trace_model

    return verify_trace(plan, trace_model(model, inputs))


def verify_trace(plan: Plan, trace: Trace) -> Verification:
    """Replay a traced forward under a plan for the same model."""
    labels = replay(trace, places_of_plan(trace, plan))
    found = peaks(trace, plan, labels)
    diagnostics = [*_meetings(trace, plan, labels), *_away(trace, plan), *_over(plan, found)]
    streamed = tuple(sorted(_streamed(trace, plan).items()))
    return Verification(tuple(diagnostics), tuple(_copies(trace, labels)), streamed, found)


def _copies(trace: Trace, labels: Labels) -> Iterator[Copy]:
    for hop in labels.hops:
        yield Copy(
            _path_of_step(trace, hop), str(hop.origin), str(hop.target), trace.values[hop.value].own_nbytes
        )


def _path_of_step(trace: Trace, item: Hop | Meeting) -> str:
    step = trace.steps[item.step]
    return trace.path(step.call) if step.call >= 0 else ""


def _meetings(trace: Trace, plan: Plan, labels: Labels) -> Iterator[Diagnostic]:
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
        one, other = (_device(trace, labels, plan, op, value) for value in (meeting.first, meeting.second))
        yield Diagnostic(
            DEVICES_MEET,
            f"`{op.name}` in {_module(where)} gets a tensor on {one} and one on {other}",
            notes=(f"{one}: {first}", f"{other}: {second}"),
            help=f"place {_module(where)} whole on one device: `atomic {where}`"
            if where
            else f"place both on {one}",
        )


def _device(trace: Trace, labels: Labels, plan: Plan, op: Op, value: int) -> str:
    label = labels.values[value]
    if trace.values[value].origin is Origin.WEIGHT:
        places = places_of_plan(trace, plan)
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


def _away(trace: Trace, plan: Plan) -> Iterator[Diagnostic]:
    """Yield weights of streamed modules that are read while the module is not running."""
    owner = unit_of_tensors(trace.tree, plan.units)
    covering = unit_modules(trace, plan)
    told: set[tuple[str, str]] = set()
    for step in trace.steps:
        if not isinstance(step, Op) or step.call < 0:
            continue
        running = covering[trace.calls[step.call].module]
        for value in (*step.inputs, *step.loose):
            item = trace.values[value]
            if item.origin is not Origin.WEIGHT:
                continue
            units = {owner[tensor] for tensor in item.tensors}
            where, path = trace.path(step.call), trace.tree.tensor_paths[item.tensors[0]]
            if running in units or not _only_streamed(plan, units, trace) or (where, path) in told:
                continue
            told.add((where, path))
            yield Diagnostic(
                WEIGHTS_AWAY,
                f"{_module(where)} reads `{path}`, which is streamed and not loaded then",
                notes=(f"`{step.name}` uses it without calling the module it belongs to",),
                help=f"place `{path.rpartition('.')[0] or path}` on the device that runs {_module(where)}",
            )


def _only_streamed(plan: Plan, units: set[int], trace: Trace) -> bool:
    """Say whether a weight is nowhere to be found unless a module of its own is running."""
    return all(
        unit >= 0 and _streams(plan.units[unit]) and plan.units[unit].path in trace.tree.module_index
        for unit in units
    )


def _streams(unit: Unit) -> bool:
    return unit.store != unit.run


def _streamed(trace: Trace, plan: Plan) -> Counter[str]:
    """Return the bytes fetched per device: each streamed unit once for each time it is entered."""
    sizes = unit_nbytes(trace, plan)
    covering = unit_modules(trace, plan)
    fetched: Counter[str] = Counter()
    for call in trace.calls:
        unit = covering[call.module]
        outside = call.parent < 0 or covering[trace.calls[call.parent].module] != unit
        if unit >= 0 and outside and _streams(plan.units[unit]):
            fetched[str(plan.units[unit].run)] += sizes[unit]
    for unit, item in enumerate(plan.units):
        if _streams(item) and item.path in trace.tree.tensor_index:
            fetched[str(item.run)] += sizes[unit]
    return fetched


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

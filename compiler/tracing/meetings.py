"""What a replay finds wrong, said for people: the op, the devices, the modules, and what to write.

Each finding names one thing to do; a module that is already whole is never said to be made whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import assert_never

from ...ir import Diagnostic, Plan, human_size, is_within, size_up
from ...ir.purposes import ACTIVATIONS
from ...ir.rules.tracing import DEVICES_MEET, LOST_WRITE, VERIFIED_PEAK_EXCEEDED, WEIGHTS_AWAY
from .labels import unit_modules
from .peaks import Peak
from .replay import Hop, Labels, Meeting, Places
from .streaming_sites import Streaming
from .trace import Enter, Leave, Op, Origin, Trace
from .wires import Crossing
from .writes import lost_writes


@dataclass(frozen=True, slots=True)
class Replayed:
    """A traced forward with the devices of its values under a plan."""

    trace: Trace
    plan: Plan
    places: Places
    labels: Labels


def path_of_step(trace: Trace, item: Hop | Meeting | Crossing) -> str:
    """Return the path of the module in whose forward a step is; empty outside."""
    step = trace.steps[item.step]
    return trace.path(step.call) if step.call >= 0 else ""


def meetings(replayed: Replayed) -> Iterator[Diagnostic]:
    """Yield one finding for each op of each module that sees two devices, however often it is called."""
    trace, told = replayed.trace, set[tuple[str, str, str, str]]()
    units = unit_modules(trace, replayed.plan)
    for meeting in replayed.labels.meetings:
        op = trace.steps[meeting.step]
        assert isinstance(op, Op)  # noqa: S101  only ops meet
        where = path_of_step(trace, meeting)
        first, second = _made_by(trace, meeting.first), _made_by(trace, meeting.second)
        if (where, op.name, first, second) in told:
            continue
        told.add((where, op.name, first, second))
        one, other = (_device(replayed, op, value) for value in (meeting.first, meeting.second))
        unit = units[trace.calls[op.call].module] if op.call >= 0 else -1
        yield Diagnostic(
            DEVICES_MEET,
            f"`{op.name}` in {_module(where)} gets a tensor on {one} and one on {other}",
            notes=(f"{one}: {first}", f"{other}: {second}"),
            help=_way_out(replayed, meeting, where, replayed.plan.units[unit].path if unit >= 0 else None),
        )


def _way_out(replayed: Replayed, meeting: Meeting, where: str, unit: str | None) -> str:
    """Say what to do about a meeting in a module, which is in a unit or cut."""
    trace, pair = replayed.trace, (meeting.first, meeting.second)
    asked = next((path for value in pair if (path := _asked_at_rest(replayed, value))), None)
    if asked is not None:
        return f"do not stream `{asked}`: it is asked for its device while it is at rest"
    if any(trace.values[value].origin is Origin.CONSTANT for value in pair):
        return "register the tensor with `register_buffer`, so that it moves with its module"
    if unit is None:
        one = replayed.labels.values[meeting.first]
        return f"place `{where}` whole on one device: `atomic {where}`" if where else f"place both on {one}"
    makers = {trace.maker(value) for value in pair} - {-1}
    outside = [trace.tree.paths[m] for m in sorted(makers) if not is_within(trace.tree.paths[m], unit)]
    if outside:
        return (
            f"place `{unit}` where `{outside[0]}` is, or `split {unit}`: the loader does not see what it gets"
        )
    return f"let the forward of {_module(where)} move one to the device of the other"


def _asked_at_rest(replayed: Replayed, value: int) -> str | None:
    """Return the streamed tensor whose device a value was made on, where it is another than it runs on."""
    trace, places, item = replayed.trace, replayed.places, replayed.trace.values[value]
    step = trace.steps[item.step] if item.step >= 0 else None
    reference = step.reference if isinstance(step, Op) else item.reference
    if reference is None or reference < 0 or not trace.values[reference].tensors:
        return None
    tensor = trace.values[reference].tensors[0]
    rest = places.resting.get(tensor)
    at_rest = rest is not None and rest.label == replayed.labels.values[value]
    return trace.tree.tensor_paths[tensor] if at_rest else None


def writes_lost(replayed: Replayed) -> Iterator[Diagnostic]:
    """Yield one finding for each op of each module that writes into a copy."""
    trace, labels, told = replayed.trace, replayed.labels, set[tuple[str, str]]()
    for lost in lost_writes(trace, labels):
        op = trace.steps[lost.step]
        assert isinstance(op, Op)  # noqa: S101  only ops write
        where, above = trace.path(op.call), trace.tree.paths[lost.separator(trace)]
        if (where, op.name) in told:
            continue
        told.add((where, op.name))
        origin, target = labels.values[lost.origin], labels.values[lost.copy]
        yield Diagnostic(
            LOST_WRITE,
            f"`{op.name}` in {_module(where)} writes into a copy on {target}, "
            f"and the original on {origin} is used later",
            notes=(f"the copy is made where {_module(above)} hands the tensor over",),
            help=f"place {_module(above)} whole on one device: `atomic {above}`"
            if above
            else f"place {_module(where)} on {origin}",
        )


def _device(replayed: Replayed, op: Op, value: int) -> str:
    trace, label = replayed.trace, replayed.labels.values[value]
    if trace.values[value].origin is Origin.WEIGHT:
        label = replayed.places.tensors[_known_as(trace, value, trace.path(op.call))]
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


def weights_away(trace: Trace, streaming: Streaming) -> Iterator[Diagnostic]:
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
        help=f"write `never {path.rpartition('.')[0] or path} on streaming` in an override file",
    )


def peaks_exceeded(plan: Plan, found: tuple[Peak, ...]) -> Iterator[Diagnostic]:
    """Yield the devices whose highest point is above their budget."""
    budgets = {device.name: device.memory for device in plan.devices}
    for peak in found:
        budget = budgets.get(peak.device)
        if budget is None or peak.nbytes <= budget:
            continue
        missing = peak.nbytes - budget
        reserved = f'write `reserve {size_up(missing)} on {peak.device} for "{ACTIVATIONS}"` and plan again'
        larger = f"give `{peak.device}` {size_up(missing)} more, or plan again with example inputs"
        yield Diagnostic(
            VERIFIED_PEAK_EXCEEDED,
            f"{peak.device} peaks at {human_size(peak.nbytes)} in {_module(peak.path)}, "
            f"it has {human_size(budget)}",
            notes=(peak.account(),),
            help=reserved if missing < budget // 2 else larger,
        )

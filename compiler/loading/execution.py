"""Run a loaded model as its plan says: inputs go to the weights, streamed weights come to the inputs.

A plan with one device gets no hooks at all. Otherwise the largest modules that run on one device
take their inputs there, and the root hands its output back to where its input came from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import torch
from torch import nn

from ...ir import Plan
from .places import Seat
from .reading import Mapped
from .sites import streaming_sites
from .streaming import Site, Stream, Streamed
from .wrappers import Plain

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

_ATTRIBUTE: Final = "_compile_plan_execution"
_Args: TypeAlias = tuple[Any, ...]
_Kwargs: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Runtime:
    """What execution needs to know of a loaded model."""

    plan: Plan
    plain: Plain
    seats: Sequence[Seat]
    devices: Mapping[str, torch.device]
    objects: Mapping[str, torch.Tensor]
    """The registered tensor of each slot, by its first path."""
    mapped: Mapping[str, Mapped]


class Execution:
    """The hooks of one loaded model; `release` takes them away again."""

    def __init__(self) -> None:
        self.handles: list[RemovableHandle] = []
        self.stream: Stream | None = None

    @staticmethod
    def release(model: nn.Module) -> None:
        """Remove the hooks an earlier load put on a model; streamed weights stay where they are stored."""
        execution = model.__dict__.pop(_ATTRIBUTE, None)
        if not isinstance(execution, Execution):
            return
        for handle in execution.handles:
            handle.remove()
        if execution.stream is not None:
            execution.stream.close()
        model.__dict__.pop("hf_device_map", None)


def attach(model: nn.Module, runtime: Runtime) -> None:
    """Put the hooks on a model that its plan needs; none when everything is and runs on one device."""
    modules = dict(model.named_modules(remove_duplicate=False))
    live = [modules[path] for path in runtime.plain.modules]
    execution = Execution()
    sites = _sites(runtime, live)
    if sites:
        _attach_sites(execution, runtime, live, sites)
    runs = {runtime.devices[seat.run] for seat in runtime.seats}
    if len(runs) > 1 or (sites and runs != {torch.device("cpu")}):
        _attach_moves(execution, runtime, live)
    if not execution.handles:
        return
    model.__dict__[_ATTRIBUTE] = execution
    if any(device.type != "cpu" for device in runtime.devices.values()):
        from ...backends import to_device_map

        model.__dict__["hf_device_map"] = to_device_map(runtime.plan)


def _sites(runtime: Runtime, live: Sequence[nn.Module]) -> dict[int, Site]:
    """Return the sites of a plan by module index."""
    streamed: dict[int, Streamed] = {}
    index = runtime.plain.tree.tensor_index
    for seat in runtime.seats:
        if seat.store == seat.run:
            continue
        for slot in seat.slots:
            tensor = runtime.objects[slot.paths[0]]
            mapped = runtime.mapped.get(slot.paths[0])
            one = Streamed(tensor, tensor.data, runtime.devices[seat.run], slot.dtype, mapped)
            if one.moves or mapped is not None:
                streamed |= {index[path]: one for path in slot.paths}
    return streaming_sites(runtime.plan, runtime.plain.tree, live, streamed) if streamed else {}


def _attach_sites(
    execution: Execution, runtime: Runtime, live: Sequence[nn.Module], sites: Mapping[int, Site]
) -> None:
    computing = {seat.run for seat in runtime.seats if seat.store != seat.run}
    lines = [account.streaming for account in runtime.plan.ledger if account.device in computing]
    stream = Stream(list(sites.values()), min(lines, default=0))
    execution.stream = stream
    execution.handles += [
        live[0].register_forward_pre_hook(lambda *_: stream.begin(), prepend=True),
        live[0].register_forward_hook(lambda *_: stream.end(), always_call=True),
    ]
    seen: set[int] = set()
    for number, module in enumerate(sites):
        if id(live[module]) in seen:
            continue
        seen.add(id(live[module]))
        execution.handles += [
            live[module].register_forward_pre_hook(_Enter(stream, number)),
            live[module].register_forward_hook(_Leave(stream, number), always_call=True),
        ]


@dataclass(frozen=True, slots=True)
class _Enter:
    stream: Stream
    number: int

    def __call__(self, _module: nn.Module, _args: _Args) -> None:
        self.stream.enter(self.number)


@dataclass(frozen=True, slots=True)
class _Leave:
    stream: Stream
    number: int

    def __call__(self, _module: nn.Module, _args: _Args, _output: object) -> None:
        self.stream.leave(self.number)


def _attach_moves(execution: Execution, runtime: Runtime, live: Sequence[nn.Module]) -> None:
    for module, device in boundaries(runtime):
        execution.handles.append(
            live[module].register_forward_pre_hook(_ToDevice(device), with_kwargs=True, prepend=True)
        )
    execution.handles.append(
        live[0].register_forward_hook(_back_to_input, with_kwargs=True, always_call=False)
    )


def boundaries(runtime: Runtime) -> Iterator[tuple[int, torch.device]]:
    """Yield the largest modules that run on one device, and modules with tensors of their own."""
    tree = runtime.plain.tree
    runs: list[torch.device] = [torch.device("cpu")] * len(tree.tensor_names)
    for seat in runtime.seats:
        for slot in seat.slots:
            for path in slot.paths:
                runs[tree.tensor_index[path]] = runtime.devices[seat.run]
    numbers = {device: number for number, device in enumerate(dict.fromkeys(runs))}
    changes = [0, *accumulate(int(a != b) for a, b in pairwise(runs))]
    inside = -1
    for module in range(len(tree)):
        tensors = tree.tensors(module)
        if not tensors or module < inside:
            continue
        uniform = len(numbers) == 1 or changes[tensors.start] == changes[tensors.stop - 1]
        own = tree.own_tensors(module)
        if uniform:
            inside = tree.ends[module]
        if uniform or own:
            yield module, runs[tensors.start]


@dataclass(frozen=True, slots=True)
class _ToDevice:
    device: torch.device

    def __call__(self, _module: nn.Module, args: _Args, kwargs: _Kwargs) -> tuple[_Args, _Kwargs]:
        return moved(args, self.device), moved(kwargs, self.device)


def _back_to_input(_module: nn.Module, args: _Args, kwargs: _Kwargs, output: object) -> object:
    first = next(_tensors((args, kwargs)), None)
    return output if first is None else moved(output, first.device)


def _tensors(value: object) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def moved(value: Any, device: torch.device) -> Any:  # noqa: ANN401  # arguments of any forward
    """Return a value with every tensor in it on the device; what holds none is returned as it is."""
    match value:
        case torch.Tensor():
            return value if value.device == device else value.to(device)
        case tuple() if hasattr(value, "_fields"):
            return type(value)(*(moved(item, device) for item in value))
        case list() | tuple():
            return type(value)(moved(item, device) for item in value)
        case dict():
            items = {key: moved(item, device) for key, item in value.items()}
            return items if type(value) is dict else type(value)(items)
        case _ if is_dataclass(value) and not isinstance(value, type):
            for field in fields(value):
                setattr(value, field.name, moved(getattr(value, field.name), device))
            return value
        case _:
            return value

"""Run a loaded model as its plan says: inputs go to the weights, streamed weights come to the inputs.

A plan with one device gets no hooks at all. Otherwise every unit takes its arguments where it runs,
and the root hands its output back to where its input came from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import nn

from ...ir import Plan
from .moves import Args, attach_moves
from .places import Seat
from .reading import Mapped
from .sites import streaming_sites
from .staging import registration
from .streaming import Site, Stream, Streamed
from .wrappers import Plain

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

_ATTRIBUTE: Final = "_compile_plan_execution"


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
    sites = _sites(model, runtime, live)
    if sites:
        _attach_sites(execution, runtime, live, sites)
    runs = {runtime.devices[seat.run] for seat in runtime.seats}
    if len(runs) > 1 or (sites and runs != {torch.device("cpu")}):
        execution.handles += attach_moves(runtime.plan, runtime.plain.tree, live, runtime.devices)
    if not execution.handles:
        return
    model.__dict__[_ATTRIBUTE] = execution
    if any(device.type != "cpu" for device in runtime.devices.values()):
        from ...backends import to_device_map

        model.__dict__["hf_device_map"] = to_device_map(runtime.plan)


def _sites(model: nn.Module, runtime: Runtime, live: Sequence[nn.Module]) -> dict[int, Site]:
    """Return the sites of a plan by module index."""
    streamed: dict[int, Streamed] = {}
    modules = dict(model.named_modules(remove_duplicate=False))
    index = runtime.plain.tree.tensor_index
    for seat in runtime.seats:
        if seat.store == seat.run:
            continue
        for slot in seat.slots:
            tensor = runtime.objects[slot.paths[0]]
            mapped = runtime.mapped.get(slot.paths[0])
            homes = [registration(modules, path) for path in slot.live]
            one = Streamed(tensor, tensor.data, runtime.devices[seat.run], slot.dtype, mapped, homes)
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

    def __call__(self, _module: nn.Module, _args: Args) -> None:
        self.stream.enter(self.number)


@dataclass(frozen=True, slots=True)
class _Leave:
    stream: Stream
    number: int

    def __call__(self, _module: nn.Module, _args: Args, _output: object) -> None:
        self.stream.leave(self.number)

"""Run a loaded model as its plan says: inputs go to the weights, streamed weights come to the inputs.

A plan with one device gets no hooks at all. Otherwise every unit takes its arguments where it runs,
and the root hands its output back to where its input came from.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

from ...ir import Plan
from .attributes import attributes_of, hook_that_makes, place_attributes
from .live_sites import streaming_sites
from .moves import Args, attach_moves
from .seats import Seat
from .staging import registration
from .stored_files import Mapped
from .streamed import Home, Streamed
from .streaming import Site, Stream
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
    others = _place_attributes(runtime, live)
    sites = _sites(model, runtime, live, others)
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


def _place_attributes(runtime: Runtime, live: Sequence[nn.Module]) -> dict[int, list[Home]]:
    tree = runtime.plain.tree
    rows = [(seat, slot) for seat in runtime.seats for slot in seat.slots]
    runs = {tree.tensor_index[path]: runtime.devices[seat.run] for seat, slot in rows for path in slot.paths}
    loaded = {id(slot.tensor): runtime.objects[slot.paths[0]] for _, slot in rows}
    return place_attributes(tree, live, runs, loaded)


def _sites(
    model: nn.Module, runtime: Runtime, live: Sequence[nn.Module], others: Mapping[int, Sequence[Home]]
) -> dict[int, Site]:
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
            homes = [*(registration(modules, path) for path in slot.live), *others.get(id(tensor), ())]
            one = Streamed(tensor, tensor.data, runtime.devices[seat.run], slot.dtype, mapped, homes)
            if one.moves or mapped is not None:
                streamed |= {index[path]: one for path in slot.paths}
    return streaming_sites(runtime.plan, runtime.plain.tree, live, streamed) if streamed else {}


def _attach_sites(
    execution: Execution, runtime: Runtime, live: Sequence[nn.Module], sites: Mapping[int, Site]
) -> None:
    computing = {seat.run for seat in runtime.seats if seat.store != seat.run}
    lines = [account.streaming for account in runtime.plan.ledger if account.device in computing]
    for module, site in sites.items():
        site.made = list(_made_by_hooks(live[module]))
    stream = Stream(list(sites.values()), min(lines, default=0))
    execution.stream = stream
    seen: set[int] = set()
    for number, module in enumerate(sites):
        if id(live[module]) in seen:
            continue
        seen.add(id(live[module]))
        execution.handles += [
            live[module].register_forward_pre_hook(_Enter(stream, number), prepend=True),
            live[module].register_forward_hook(_Leave(stream, number), always_call=True),
        ]
    execution.handles += [  # before the model's own hooks, which may use weights, and before the sites'
        live[0].register_forward_pre_hook(_Begin(stream), prepend=True),
        live[0].register_forward_hook(_End(stream), always_call=True),
    ]


def _made_by_hooks(module: nn.Module) -> Iterator[tuple[dict[str, Any], str, torch.Tensor]]:
    for part in module.modules():
        for name, value in attributes_of(part):
            if hook_that_makes(part, name) is not None:
                yield part.__dict__, name, value


def _untraced(step: Callable[..., None], *args: int) -> None:
    """Run a step of the stream; where `torch.compile` is in use, without letting it look inside."""
    if "torch._dynamo" in sys.modules:
        step = torch.compiler.disable(step)  # type: ignore[no-untyped-call]
    step(*args)


@dataclass(frozen=True, slots=True)
class _Begin:
    stream: Stream

    def __call__(self, _module: nn.Module, _args: Args) -> None:
        _untraced(self.stream.begin)


@dataclass(frozen=True, slots=True)
class _End:
    stream: Stream

    def __call__(self, _module: nn.Module, _args: Args, _output: object) -> None:
        _untraced(self.stream.end)


@dataclass(frozen=True, slots=True)
class _Enter:
    stream: Stream
    number: int

    def __call__(self, _module: nn.Module, _args: Args) -> None:
        _untraced(self.stream.enter, self.number)


@dataclass(frozen=True, slots=True)
class _Leave:
    stream: Stream
    number: int

    def __call__(self, _module: nn.Module, _args: Args, _output: object) -> None:
        _untraced(self.stream.leave, self.number)

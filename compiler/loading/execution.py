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
from ..running.homes import spans_of
from .attributes import place_attributes
from .blocks import Block
from .moves import attach_moves
from .seats import Seat
from .staging import registration
from .stored_files import Mapped
from .streaming import Home, Streamed
from .streaming.hooks import attach_stream
from .streaming.live_sites import streaming_sites
from .streaming.site import Site
from .streaming.stream import Stream
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
    blocks: Mapping[str, tuple[Block, int]]
    """The host memory a slot rests in together with its unit, and its first byte there."""


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
        execution.stream = Stream(list(sites.values()), _buffer(runtime))
        execution.handles += attach_stream(live[0], execution.stream)
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
    spans = [(span, runtime.devices[str(run)]) for span, run in spans_of(tree, runtime.plan.units)]
    return place_attributes(tree, live, runs, loaded, spans)


def _buffer(runtime: Runtime) -> int:
    """Return the bytes of the streaming buffer, as the plan's ledger has it; 0 where it says nothing."""
    computing = {seat.run for seat in runtime.seats if seat.store != seat.run}
    lines = [account.streaming for account in runtime.plan.ledger if account.device in computing]
    return min(lines, default=0)


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
            one.block, one.start = runtime.blocks.get(slot.paths[0], (None, 0))
            if one.moves or one.in_files:
                streamed |= {index[path]: one for path in slot.paths}
    return streaming_sites(runtime.plan, runtime.plain.tree, live, streamed) if streamed else {}

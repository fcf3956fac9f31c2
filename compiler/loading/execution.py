"""Run a loaded model as its plan says: inputs go to the weights, streamed weights come to the inputs.

A plan with one device gets no hooks at all. Otherwise every unit takes its arguments where it runs,
and the root hands its output back to where its input came from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import nn

from ...ir import Plan, is_within
from ...ir.patterns import match_paths
from ..placing.in_phases import phase_lines
from ..running.homes import spans_of
from .attributes import place_attributes
from .blocks import is_card
from .guards import Guard, guarded
from .hosts import Party, Removable, Road, attach_passing
from .installing import registration
from .moves import arrives, attach_moves, entries
from .pinning import Pinning, leaves_of_site, pinned_first
from .seats import Seat, live_modules
from .stacked import Stacked, put_together
from .staging import Berth
from .stored_files import Mapped
from .streaming import Home, Streamed
from .streaming.choosers import Chooser, chooser_of
from .streaming.hooks import adopt_newcomers, attach_rows, attach_stream
from .streaming.live_sites import streaming_sites
from .streaming.rows import RowSite
from .streaming.site import Site
from .streaming.stream import Stream
from .streaming.streamed import at_rest
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
    blocks: Mapping[str, tuple[Berth, ...]]
    """Where the plain tensors of a slot lie in the host memory that its unit shares."""


class Execution:
    """The hooks of one loaded model; `release` takes them away again."""

    def __init__(self) -> None:
        self.handles: list[RemovableHandle] = []
        self.elsewhere: list[Removable] = []
        """What lets units of other hosts be passed by."""
        self.road: Road | None = None
        self.stream: Stream | None = None
        self.rows: list[RowSite] = []
        self.registering: Pinning | None = None
        self.guards: list[Guard] = []

    @staticmethod
    def of(model: nn.Module) -> Execution | None:
        """Return what runs a model; None where nothing has to."""
        found = model.__dict__.get(_ATTRIBUTE)
        return found if isinstance(found, Execution) else None

    @staticmethod
    def served(model: nn.Module) -> dict[int, Streamed]:
        """Return what is served from files now and no forward has written to, by the ids of its tensors."""
        execution = Execution.of(model)
        sites = () if execution is None or execution.stream is None else execution.stream.sites
        streamed = (one for site in sites for one in site.streamed)
        return {id(one.tensor): one for one in streamed if one.in_files and not one.writes}

    @staticmethod
    def release(model: nn.Module) -> None:
        """Remove the hooks an earlier load put on a model; streamed weights stay where they are stored."""
        execution = model.__dict__.pop(_ATTRIBUTE, None)
        if not isinstance(execution, Execution):
            return
        for handle in (*execution.handles, *reversed(execution.elsewhere)):
            handle.remove()
        for guard in execution.guards:
            guard.remove()
        for rows in execution.rows:
            rows.close()
        if execution.stream is not None:
            execution.stream.close()
        if execution.registering is not None:
            execution.registering.end()
        model.__dict__.pop("hf_device_map", None)


def attach(model: nn.Module, runtime: Runtime, party: Party | None = None) -> None:
    """Put the hooks on a model that its plan needs; none when everything is and runs on one device."""
    modules = live_modules(model)
    live = [modules[path] for path in runtime.plain.modules]
    execution = Execution()
    others = _place_attributes(runtime, live)
    sites = _sites(model, runtime, live, others)
    if sites:
        _stream(execution, runtime, live, sites)
        execution.handles += _savable(sites)
    runs = {runtime.devices[seat.run] for seat in runtime.seats}
    here = None if party is None else runtime.devices[party.view.home_device(runtime.plan)]
    if len(runs) > 1 or (sites and runs != {torch.device("cpu")}):
        execution.handles += attach_moves(runtime.plan, runtime.plain.tree, live, runtime.devices, here)
        execution.handles += _called_alone(runtime, live, sites)
    if party is not None and party.wire is not None and here is not None:
        party.wire.start_from(here)
        road = execution.road = Road(party.wire, here)
        tree = runtime.plain.tree
        execution.elsewhere = attach_passing(runtime.plan, tree, live, runtime.devices, party.view, road)
    if not execution.handles and not execution.elsewhere:
        return
    model.__dict__[_ATTRIBUTE] = execution
    execution.guards = guarded(model, {id(site.module) for site in sites.values()})
    if party is None and any(device.type != "cpu" for device in runtime.devices.values()):
        from ...backends import to_device_map

        model.__dict__["hf_device_map"] = to_device_map(runtime.plan)


def _called_alone(
    runtime: Runtime, live: Sequence[nn.Module], sites: Mapping[int, Site]
) -> Iterator[RemovableHandle]:
    """Let streamed modules inside a unit take their arguments, too: a table is looked up before the model."""
    entered = {module for module, _ in entries(runtime.plan, runtime.plain.tree, live)}
    for number, site in sites.items():
        runs = {one.device for one in site.streamed}
        if number not in entered and len(runs) == 1:
            yield from arrives(site.module, *runs, *runs)


def _place_attributes(runtime: Runtime, live: Sequence[nn.Module]) -> dict[int, list[Home]]:
    tree = runtime.plain.tree
    rows = [(seat, slot) for seat in runtime.seats for slot in seat.slots]
    runs = {tree.tensor_index[path]: runtime.devices[seat.run] for seat, slot in rows for path in slot.paths}
    loaded = {id(slot.tensor): runtime.objects[slot.paths[0]] for _, slot in rows}
    spans = [(span, runtime.devices[str(run)]) for span, run in spans_of(tree, runtime.plan.units)]
    return place_attributes(tree, live, runs, loaded, spans)


def _buffers(runtime: Runtime) -> dict[torch.device, int]:
    """Return the bytes of each streaming buffer, as the plan's ledger has them."""
    found: dict[torch.device, int] = {}
    for account in runtime.plan.ledger:
        device = runtime.devices.get(account.device)
        if device is not None and account.streaming:
            found[device] = found.get(device, 0) + account.streaming
    return found


def _stream(
    execution: Execution, runtime: Runtime, live: Sequence[nn.Module], sites: Mapping[int, Site]
) -> None:
    """Let sites bring their tensors; modules that choose rows are asked what they chose."""
    choosers = _choosers(runtime, live)
    aside = [number for number, module in enumerate(sites) if module in choosers]
    stream = execution.stream = Stream(
        list(sites.values()), _buffers(runtime), aside, alone=not phase_lines(runtime.plan)
    )
    execution.handles = attach_stream(live[0], stream, aside)
    caches = _caches(runtime, [stream.sites[number] for number in aside])
    for number, module in enumerate(sites):
        if module in choosers:
            rows = RowSite(stream, number, choosers[module], caches.get(sites[module].path, 0))
            execution.rows.append(rows)
            execution.handles += attach_rows(rows)
    newcomers = adopt_newcomers(live[0], stream, arrives)
    newcomers[:0] = execution.handles  # the list goes on growing
    execution.handles = newcomers
    leaves = (leaf for site in stream.sites for leaf in leaves_of_site(site))
    card = next((leaf.device for leaf in leaves if is_card(leaf.device)), None)
    if card is not None:
        execution.registering = Pinning(pinned_first(stream.sites, aside), card)


def _savable(sites: Mapping[int, Site]) -> list[RemovableHandle]:
    """Let the state of modules whose tensors rest in pieces be saved as any other."""
    owners = [site for site in sites.values() if any(one.pieces is not None for one in site.streamed)]
    parts = {id(part): part for site in owners for part in site.module.modules()}
    holders = (part for part in parts.values() if any(map(_is_in_pieces, _own_tensors(part))))
    return [holder.register_state_dict_post_hook(put_together) for holder in holders]  # type: ignore[no-untyped-call]


def _is_in_pieces(tensor: torch.Tensor) -> bool:
    return isinstance(tensor, Stacked)


def _own_tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    """Yield the parameters and buffers a module itself holds."""
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)


def _choosers(runtime: Runtime, live: Sequence[nn.Module]) -> dict[int, Chooser]:
    """Return the modules whose weights are streamed by rows, and can be."""
    tree, found = runtime.plain.tree, dict[int, Chooser]()
    rows = [
        seat for seat in runtime.seats if runtime.plan.units[seat.unit].by_rows and seat.store != seat.run
    ]
    plain = (slot for seat in rows for slot in seat.slots if slot.compound is None)
    tensors = {tree.tensor_index[path] for slot in plain for path in slot.paths}
    for module, owner in enumerate(live):
        own = {tree.tensor_names[tensor]: tensor for tensor in tree.own_tensors(module)}
        if not any(tensor in tensors for tensor in own.values()):
            continue
        chooser = chooser_of(owner)
        if chooser is not None and all(own.get(name) in tensors for name in chooser.tables):
            found[module] = chooser
    return found


def _caches(runtime: Runtime, sites: Sequence[Site]) -> dict[str, int]:
    """Return the bytes of cache of each site: what shares a cache has parts of it by its size.

    Parts of their own serve better than one for all: layers take turns, so what one layer needs next would
    always be what was used longest ago.
    """
    found: dict[str, int] = {}
    for cache in runtime.plan.caches:
        device = runtime.devices.get(cache.device)
        named = [path for pattern in cache.patterns for path in match_paths(runtime.plain.tree, pattern)]
        shared = [
            site
            for site in sites
            if any(one.device == device for one in site.streamed)
            and any(is_within(site.path, path) for path in named)
        ]
        total = sum(site.nbytes for site in shared)
        for site in shared:
            found[site.path] = found.get(site.path, 0) + cache.nbytes * site.nbytes // max(1, total)
    return found


def _sites(
    model: nn.Module, runtime: Runtime, live: Sequence[nn.Module], others: Mapping[int, Sequence[Home]]
) -> dict[int, Site]:
    """Return the sites of a plan by module index."""
    streamed: dict[int, Streamed] = {}
    modules = live_modules(model)
    index = runtime.plain.tree.tensor_index
    for seat in runtime.seats:
        if seat.store == seat.run or runtime.devices[seat.store].type == "meta":
            continue
        for slot in seat.slots:
            tensor = runtime.objects[slot.paths[0]]
            mapped = runtime.mapped.get(slot.paths[0])
            homes = [*(registration(modules, path) for path in slot.live), *others.get(id(tensor), ())]
            one = at_rest(tensor, runtime.devices[seat.run], slot.dtype, mapped, homes)
            for leaf, berth in zip(one.leaves, runtime.blocks.get(slot.paths[0], ()), strict=False):
                leaf.block, leaf.start = berth
            if one.moves or one.in_files:
                streamed |= {index[path]: one for path in slot.paths}
    if not streamed:
        return {}
    tree = runtime.plain.tree
    alone = {module: tree.own_tensors(module) for module in _choosers(runtime, live)}
    alone = {module: tensors for module, tensors in alone.items() if any(t in streamed for t in tensors)}
    apart = {tensor for tensors in alone.values() for tensor in tensors}
    rest = {tensor: one for tensor, one in streamed.items() if tensor not in apart}
    sites = streaming_sites(runtime.plan, tree, live, rest) if rest else {}
    for module, tensors in alone.items():
        own = {id(streamed[tensor]): streamed[tensor] for tensor in tensors if tensor in streamed}
        sites[module] = Site(tree.paths[module], live[module], list(own.values()))
    return dict(sorted(sites.items()))

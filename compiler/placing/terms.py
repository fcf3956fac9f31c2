"""What a plan asks of every placement, read once: for first fit, for the search, and for explanations.

All of it is in bytes and by index: of a device in the plan's list, of a tensor in its tree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ...ir import STREAMING, Cache, Demand, Device, ModuleTree, Never, Plan, Reserve, Together, pool_sizes
from ...ir.patterns import match_paths
from ...ir.purposes import ALONE_HOST, MOMENTARY, ON_HOST, PASSING, TOGETHER
from .in_force import stands_alone
from .in_phases import ALWAYS, Phases


class Pool(NamedTuple):
    """Devices that share one physical memory, and what of it is free; none of it where that is negative."""

    members: tuple[int, ...]
    room: int


class Needed(NamedTuple):
    """The tensors a demand follows, and its bytes."""

    tensors: range
    nbytes: int
    path: str
    phase: int = ALWAYS
    """The phase it is needed in."""


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of a plan; a device without a budget is unlimited in all of them."""

    rooms: tuple[int | None, ...]
    """What margins, reserves and caches leave of each device; None is unlimited."""
    pools: tuple[Pool, ...]
    groups: tuple[tuple[int, ...], ...]
    """Tensors that are placed as one: they share storage, or a line keeps them together."""
    banned: Mapping[int, frozenset[int]]
    """By tensor, the devices that may neither store nor run it."""
    resident: frozenset[int]
    """Tensors that are used where they are stored: `never PATTERN on streaming`."""
    lasting: tuple[Needed, ...]
    """Demands that add up where the first of their tensors runs."""
    momentary: tuple[Needed, ...]
    """Demands of which each device needs the largest that runs there."""


def terms_of(plan: Plan, tree: ModuleTree) -> Terms:
    """Return what a plan asks."""
    # What only the host's own kernels need is in its ledger: no accelerator is to keep it free.
    left_out = {ON_HOST} | ALONE_HOST | (set() if stands_alone(plan.demands) else TOGETHER)
    needed = [(each, _follows(tree, each)) for each in plan.demands if each.purpose not in left_out]
    phases = Phases(plan, tree)
    rows = [
        (d.purpose in MOMENTARY, Needed(at, d.nbytes, d.path, _phase(d, phases))) for d, at in needed if at
    ]
    never = [
        (rule.device, _named(tree, (rule.pattern,))) for rule in plan.constraints if isinstance(rule, Never)
    ]
    return Terms(
        rooms_of(plan),
        _pools(plan),
        _groups(plan, tree),
        _banned(plan, never),
        frozenset(tensor for device, tensors in never if device == STREAMING for tensor in tensors),
        tuple(row for is_momentary, row in rows if not is_momentary),
        tuple(row for is_momentary, row in rows if is_momentary),
    )


def _phase(demand: Demand, phases: Phases) -> int:
    """Return the phase bytes are needed in; gradients and their like stay from one to the next."""
    return phases.of_path(demand.path) if demand.purpose in MOMENTARY | PASSING else ALWAYS


def rooms_of(plan: Plan) -> tuple[int | None, ...]:
    """Return what margins, reserves and caches leave of each device, never below zero; None is unlimited."""
    kept = _kept(plan)
    return tuple(
        None if device.memory is None else max(0, device.memory - device.margin - kept.get(device.name, 0))
        for device in plan.devices
    )


def demand_tensors(tree: ModuleTree, path: str) -> range:
    """Return the tensors whose device a demand follows; a module without any follows what is before it."""
    module = tree.module_index.get(path)
    if module is None or tree.tensors(module):
        return tree.covered(path)
    before = max(0, tree.first_tensors[module] - 1)
    return range(before, before + 1) if tree.tensor_names else range(0)


def _follows(tree: ModuleTree, demand: Demand) -> range:
    """Return the tensors whose device a demand follows; all of them for what one device needs for all."""
    return demand_tensors(tree, "" if demand.purpose in TOGETHER else demand.path)


def _kept(plan: Plan) -> dict[str, int]:
    """Return the bytes that lines keep free on each device, margins left aside."""
    kept: dict[str, int] = {}
    lines: tuple[Reserve | Cache, ...] = (*plan.reserves, *plan.caches)
    for each in lines:
        kept[each.device] = kept.get(each.device, 0) + each.nbytes
    return kept


def _pools(plan: Plan) -> tuple[Pool, ...]:
    kept, found = _kept(plan), list[Pool]()
    for name, size in pool_sizes(plan.devices).items():
        members = tuple(i for i, device in enumerate(plan.devices) if device.pool == name)
        if size is not None:
            devices = [plan.devices[i] for i in members]
            taken = sum(_margin(device, kept) + kept.get(device.name, 0) for device in devices)
            found.append(Pool(members, size - taken))
    return tuple(found)


def _margin(device: Device, kept: Mapping[str, int]) -> int:
    """Return what a margin really keeps free: no more than there is beside the reserves."""
    if device.memory is None:
        return device.margin
    return min(device.margin, max(0, device.memory - kept.get(device.name, 0)))


def _groups(plan: Plan, tree: ModuleTree) -> tuple[tuple[int, ...], ...]:
    index = tree.tensor_index if plan.ties else {}
    groups = [[index[path] for path in tie.tensors if path in index] for tie in plan.ties]
    groups += [[storage, i] for i, storage in enumerate(tree.storages) if storage != i]
    groups += [_named(tree, rule.patterns) for rule in plan.constraints if isinstance(rule, Together)]
    leaders: dict[int, int] = {}

    def leader(tensor: int) -> int:
        while (above := leaders.setdefault(tensor, tensor)) != tensor:
            leaders[tensor] = tensor = leaders[above]
        return tensor

    for group in groups:
        for tensor in group:
            leaders[leader(tensor)] = leader(group[0])
    joined: dict[int, list[int]] = {}
    for tensor in sorted(leaders):
        joined.setdefault(leader(tensor), []).append(tensor)
    return tuple(tuple(group) for group in joined.values() if len(group) > 1)


def _banned(plan: Plan, never: list[tuple[str, list[int]]]) -> dict[int, frozenset[int]]:
    index = {device.name: i for i, device in enumerate(plan.devices)}
    banned: dict[int, set[int]] = {}
    for device, tensors in never:
        for tensor in tensors if device in index else ():
            banned.setdefault(tensor, set()).add(index[device])
    return {tensor: frozenset(devices) for tensor, devices in banned.items()}


def _named(tree: ModuleTree, patterns: tuple[str, ...]) -> list[int]:
    """Return the tensors that patterns name, in tree order."""
    paths = (path for pattern in patterns for path in match_paths(tree, pattern))
    return sorted({tensor for path in paths for tensor in tree.covered(path)})

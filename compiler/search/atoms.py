"""From a plan to a problem: grains, merged by ties and `together`, minus what pins decide."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ...ir import STREAMING, Never, Plan, Together, Unit, atomic_modules
from ...ir.patterns import match_paths
from ...ir.tree import ModuleTree
from ..placing.grains import (
    Grain,
    is_pin,
    layer_modules,
    opened_modules,
    stream_bytes,
    walk_grains,
)
from ..placing.terms import MOMENTARY, Pool, demand_tensors, rooms_of
from .efforts import Efforts
from .problem import NEVER, UNLIMITED, Atom, Place, Problem


@dataclass(frozen=True, slots=True)
class Model:
    """A plan's grains and the problem made of them; grain indices of the atoms refer to ``grains``."""

    tree: ModuleTree
    grains: tuple[Grain, ...]
    problem: Problem
    opened: frozenset[int]


def build(plan: Plan, tree: ModuleTree, *, whole_layers: bool) -> Model:
    """Return the problem of a plan; with ``whole_layers`` a layer is not opened, however large."""
    opened = opened_modules(plan, tree)
    closed = set(atomic_modules(tree, plan.constraints)) | (layer_modules(tree) if whole_layers else set())
    grains = tuple(walk_grains(tree, closed, opened))
    owner = _owners(grains, len(tree.tensor_names))
    leaders = _merge(plan, tree, grains, owner)
    fixed = _fixed(plan, tree, owner, leaders)
    demands, peaks = _demands(plan, tree, owner, len(grains))
    bans, kept = _bans(plan, tree, owner), _never_streamed(plan, tree, owner)
    efforts = Efforts(plan, tree, owner, len(grains))
    sizes = tree.prefix_bytes
    members: dict[int, list[int]] = {}
    for grain, leader in enumerate(leaders):
        members.setdefault(leader, []).append(grain)
    atoms = [
        Atom(
            tuple(group),
            sum([sizes[grains[g].stop] - sizes[grains[g].start] for g in group]),
            sum([demands[g] for g in group]),
            max([peaks[g] for g in group]),
            NEVER if kept.intersection(group) else max([stream_bytes(tree, grains[g]) for g in group]),
            frozenset().union(*[bans.get(g, ()) for g in group]) if bans else frozenset(),
            efforts.of(group),
        )
        for group in members.values()
    ]
    return Model(tree, grains, _problem(plan, atoms, fixed), frozenset(opened))


def _problem(plan: Plan, atoms: list[Atom], fixed: dict[int, Place]) -> Problem:
    rooms = [UNLIMITED if room is None else room for room in rooms_of(plan)]
    count = len(plan.devices)
    peaks, buffers, free = [0] * count, [0] * count, list[Atom]()
    taken = [0] * count
    for atom in atoms:
        place = fixed.get(atom.grains[0])
        if place is None:
            free.append(atom)
            continue
        taken[place.store] += atom.weight
        taken[place.run] += atom.demand
        peaks[place.run] = max(peaks[place.run], atom.peak)
        if place.streamed:
            buffers[place.run] = max(buffers[place.run], atom.stream)
    taken = [sum(parts) for parts in zip(taken, peaks, buffers, strict=True)]
    left = tuple(room - load for room, load in zip(rooms, taken, strict=True))
    return Problem(
        plan.devices, left, tuple(free), _pools(plan, taken), tuple(peaks), tuple(buffers), dict(fixed)
    )


def _pools(plan: Plan, taken: list[int]) -> tuple[Pool, ...]:
    named: dict[str, list[int]] = {}
    for index, device in enumerate(plan.devices):
        if device.pool is not None:
            named.setdefault(device.pool, []).append(index)
    pools: list[Pool] = []
    for members in named.values():
        devices = [plan.devices[i] for i in members]
        size = max((d.memory or 0) if d.pool_memory is None else d.pool_memory for d in devices)
        kept = sum(min(d.margin, d.memory or 0) for d in devices) + sum(
            r.nbytes for r in plan.reserves if r.device in {d.name for d in devices}
        )
        pools.append(Pool(tuple(members), size - kept - sum(taken[i] for i in members)))
    return tuple(pools)


def _owners(grains: tuple[Grain, ...], count: int) -> list[int]:
    owner = [0] * count
    for index, (_, start, stop) in enumerate(grains):
        owner[start:stop] = [index] * (stop - start)
    return owner


def _merge(plan: Plan, tree: ModuleTree, grains: tuple[Grain, ...], owner: list[int]) -> list[int]:
    """Return the leader of every grain: union-find over shared storage and `together`."""
    leaders = list(range(len(grains)))

    def find(grain: int) -> int:
        while leaders[grain] != grain:
            leaders[grain] = leaders[leaders[grain]]
            grain = leaders[grain]
        return grain

    def join(group: Iterable[int]) -> None:
        roots = sorted({find(grain) for grain in group})
        for root in roots[1:]:
            leaders[root] = roots[0]

    for tensor, storage in enumerate(tree.storages):
        if storage != tensor and owner[tensor] != owner[storage]:
            join((owner[tensor], owner[storage]))
    for constraint in plan.constraints:
        if isinstance(constraint, Together):
            join(g for pattern in constraint.patterns for g in _grains_of(tree, pattern, owner))
    return [find(grain) for grain in range(len(grains))]


def _grains_of(tree: ModuleTree, pattern: str, owner: list[int]) -> set[int]:
    return {owner[t] for path in match_paths(tree, pattern) for t in tree.covered(path)}


def _fixed(plan: Plan, tree: ModuleTree, owner: list[int], leaders: list[int]) -> dict[int, Place]:
    index = {device.name: i for i, device in enumerate(plan.devices)}
    decided: dict[int, Place] = {}
    for unit in plan.units:
        place = _written(unit, index)
        if place is not None:
            for tensor in tree.covered(unit.path):
                decided.setdefault(leaders[owner[tensor]], place)
    return {g: decided[leader] for g, leader in enumerate(leaders) if leader in decided}


def _written(unit: Unit, index: dict[str, int]) -> Place | None:
    if not is_pin(unit.reason) or unit.store not in index or unit.run not in index:
        return None
    return Place(index[unit.store], index[unit.run])


def _bans(plan: Plan, tree: ModuleTree, owner: list[int]) -> dict[int, set[int]]:
    index = {device.name: i for i, device in enumerate(plan.devices)}
    bans: dict[int, set[int]] = {}
    for constraint in plan.constraints:
        if isinstance(constraint, Never) and constraint.device in index:
            for grain in _grains_of(tree, constraint.pattern, owner):
                bans.setdefault(grain, set()).add(index[constraint.device])
    return bans


def _never_streamed(plan: Plan, tree: ModuleTree, owner: list[int]) -> set[int]:
    rules = [rule for rule in plan.constraints if isinstance(rule, Never) and rule.device == STREAMING]
    return {grain for rule in rules for grain in _grains_of(tree, rule.pattern, owner)}


def _demands(plan: Plan, tree: ModuleTree, owner: list[int], count: int) -> tuple[list[int], list[int]]:
    """Return, by grain, the demands that add up and the largest of those that do not.

    What an opened module needs is charged to its first part, activations to each of its parts.
    """
    adding, largest = [0] * count, [0] * count
    for demand in plan.demands:
        parts = demand_tensors(tree, demand.path)
        if not parts:
            continue
        if demand.purpose in MOMENTARY:
            for grain in range(owner[parts.start], owner[parts.stop - 1] + 1):
                largest[grain] = max(largest[grain], demand.nbytes)
        else:
            adding[owner[parts.start]] += demand.nbytes
    return adding, largest

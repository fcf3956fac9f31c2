"""From a plan to a problem: grains, merged by ties and `together`, minus what pins decide."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from ...ir import Plan, Unit, atomic_modules, is_within
from ...ir.names import upwards
from ...ir.tree import ModuleTree
from ..machine.machine_file import main_dtype
from ..placing.grains import (
    Grain,
    is_pin,
    layer_modules,
    opened_modules,
    stream_bytes,
    walk_grains,
)
from ..placing.in_phases import Phases, one_phase
from ..placing.terms import Needed, Terms, terms_of
from .efforts import Efforts, takes_rows
from .flows import Flow, handovers_of
from .launches import Launches, launches_of
from .parts import walk_parts
from .problem import NEVER, UNLIMITED, Atom, Handover, Place, Problem

WIDEST = 1 << 16
"""The widest hidden state that is believed."""


@dataclass(frozen=True, slots=True)
class PlanProblem:
    """A plan's grains and the problem made of them; grain indices of the atoms refer to ``grains``."""

    tree: ModuleTree
    grains: tuple[Grain, ...]
    problem: Problem
    opened: frozenset[int]
    homes: tuple[tuple[int, ...], ...] = ()
    """Grains that together are what is left of a module whose parts may be visited."""
    launches: tuple[Launches, ...] = ()
    """Of each grain; empty where nobody counted them."""


def build(
    plan: Plan,
    tree: ModuleTree,
    *,
    whole_layers: bool = False,
    parts: bool = False,
    flows: tuple[Flow, ...] = (),
) -> PlanProblem:
    """Return the problem of a plan.

    With ``whole_layers`` a layer is not opened, however large; with ``parts`` what may be visited is apart
    even from what stays whole. ``flows`` are the tensors that pass between its modules, if a trace told.
    """
    opened = opened_modules(plan, tree)
    closed = set(atomic_modules(tree, plan.constraints)) | (layer_modules(tree) if whole_layers else set())
    homes, visited_from = tuple[tuple[int, ...], ...](), dict[int, int]()
    if parts:
        grains, homes, visited_from = walk_parts(plan, tree, closed, opened)
    else:
        grains = tuple(walk_grains(tree, closed, opened))
    owner = _owners(grains, len(tree.tensor_names))
    terms = terms_of(plan, tree)
    leaders = _merge(terms, owner, len(grains), homes)
    fixed = _fixed(plan, tree, owner, leaders)
    demands, peaks, phases = _demands(terms, grains, owner, homes)
    used_in = Phases(plan, tree)
    for number, (_, start, stop) in enumerate(grains if used_in.lines else ()):
        phases[number].add(used_in.of_tensors(range(start, stop)))
    bans, kept = _bans(terms, owner), {owner[tensor] for tensor in terms.resident}
    efforts = Efforts(plan, tree, owner, len(grains))
    written_rows = {owner[t] for unit in plan.units if unit.by_rows for t in tree.covered(unit.path)}
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
            NEVER if kept.intersection(group) else max([_stream(tree, grains[g]) for g in group]),
            frozenset().union(*[bans.get(g, ()) for g in group]) if bans else frozenset(),
            effort := efforts.of(group),
            one_phase(phase for g in group for phase in phases[g]),
            len(group) == 1
            and takes_rows(tree, grains[group[0]], effort)
            and (group[0] not in fixed or group[0] in written_rows),
        )
        for group in members.values()
    ]
    problem = replace(
        _problem(plan, terms, atoms, fixed),
        row=hidden_bytes(tree),
        links=plan.links,
        visited_from=visited_from,
        handovers=_handovers(tree, grains, owner, homes, flows),
        dtype=main_dtype(tree) or "",
        layers=_layers(tree, grains),
        phases=len(used_in.lines),
        caches=tuple(sum(c.nbytes for c in plan.caches if c.device == d.name) for d in plan.devices),
    )
    launches = launches_of(plan, tree, owner, len(grains))
    return PlanProblem(tree, grains, problem, frozenset(opened), homes, launches)


def _layers(tree: ModuleTree, grains: tuple[Grain, ...]) -> tuple[int, ...]:
    """Return by grain the outermost layer around it, -1 where there is none."""
    found, last = [-1] * len(tree.tensor_names), -1
    for layer in sorted(layer_modules(tree)):
        if layer > last:
            inside, last = tree.tensors(layer), tree.ends[layer] - 1
            found[inside.start : inside.stop] = [layer] * len(inside)
    return tuple([found[grain.start] for grain in grains])


def _handovers(
    tree: ModuleTree,
    grains: tuple[Grain, ...],
    owner: list[int],
    homes: tuple[tuple[int, ...], ...],
    flows: tuple[Flow, ...],
) -> tuple[Handover, ...]:
    """Return the flows in grains; what a module hands on that has parts elsewhere leaves from its home."""
    left = {grains[home[0]].path: home[0] for home in homes}

    def grain_of(path: str) -> int | None:
        covered = tree.covered(path)
        return left.get(path, owner[covered.start] if covered else None)

    return handovers_of(flows, grain_of)


def _stream(tree: ModuleTree, grain: Grain) -> int:
    """Return what a buffer must hold of a grain; what is left of a module travels with all of it at most."""
    module = tree.module_index.get(grain.path)
    whole = range(grain.start, grain.stop) if module is None else tree.tensors(module)
    return stream_bytes(tree, Grain(grain.path, whole.start, whole.stop))


def hidden_bytes(tree: ModuleTree) -> int:
    """Return the bytes of one token's hidden state, as a model's vectors tell it: norms are that wide."""
    widths = Counter(shape[0] for shape in tree.shapes if len(shape) == 1 and 1 < shape[0] <= WIDEST)
    return 2 * max(widths, key=lambda width: (widths[width], width), default=0)


def _problem(plan: Plan, terms: Terms, atoms: list[Atom], fixed: dict[int, Place]) -> Problem:
    count = len(plan.devices)
    peaks, buffers, free = [0] * count, [0] * count, list[Atom]()
    taken, pinned = [0] * count, list[tuple[Atom, Place]]()
    for atom in atoms:
        place = fixed.get(atom.grains[0])
        if place is None:
            free.append(atom)
            continue
        pinned.append((atom, place))
        taken[place.store] += atom.weight
        taken[place.run] += atom.demand
        peaks[place.run] = max(peaks[place.run], atom.peak)
        if place.streamed:
            buffers[place.run] = max(buffers[place.run], atom.stream)
    taken = [sum(parts) for parts in zip(taken, peaks, buffers, strict=True)]
    left = tuple(
        UNLIMITED if room is None else room - load for room, load in zip(terms.rooms, taken, strict=True)
    )
    pools = tuple(pool._replace(room=pool.room - sum(taken[d] for d in pool.members)) for pool in terms.pools)
    return Problem(
        plan.devices, left, tuple(free), pools, tuple(peaks), tuple(buffers), dict(fixed), tuple(pinned)
    )  # fmt: skip


def _owners(grains: tuple[Grain, ...], count: int) -> list[int]:
    owner = [0] * count
    for index, (_, start, stop) in enumerate(grains):
        owner[start:stop] = [index] * (stop - start)
    return owner


def _merge(terms: Terms, owner: list[int], count: int, homes: tuple[tuple[int, ...], ...]) -> list[int]:
    """Return the leader of every grain: union-find over what is placed as one."""
    leaders = list(range(count))

    def find(grain: int) -> int:
        while leaders[grain] != grain:
            leaders[grain] = leaders[leaders[grain]]
            grain = leaders[grain]
        return grain

    tied = ([owner[tensor] for tensor in group] for group in terms.groups)
    for group in (*tied, *homes):
        first, *others = sorted({find(grain) for grain in group})
        for root in others:
            leaders[root] = first
    return [find(grain) for grain in range(count)]


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


def _bans(terms: Terms, owner: list[int]) -> dict[int, set[int]]:
    bans: dict[int, set[int]] = {}
    for tensor, devices in terms.banned.items():
        bans.setdefault(owner[tensor], set()).update(devices)
    return bans


def _demands(
    terms: Terms, grains: tuple[Grain, ...], owner: list[int], homes: tuple[tuple[int, ...], ...]
) -> tuple[list[int], list[int], list[set[int]]]:
    """Return, by grain, the demands that add up, the largest of those that do not, and the phases of both.

    What a module needs is charged where its own forward runs: an opened one's to its first part, what a part
    of it is visited for to what is left of it. Activations are charged to each of its parts.
    """
    adding, largest, phases = [0] * len(grains), [0] * len(grains), [set[int]() for _ in grains]
    left = {grains[home[0]].path: home[0] for home in homes}
    for needed in terms.lasting:
        at = _runs_in(needed, grains, owner, left)
        adding[at] += needed.nbytes
        phases[at].add(needed.phase)
    for needed in terms.momentary:
        first, last = owner[needed.tensors.start], owner[needed.tensors.stop - 1]
        for grain in {*range(first, last + 1), _runs_in(needed, grains, owner, left)}:
            largest[grain] = max(largest[grain], needed.nbytes)
            phases[grain].add(needed.phase)
    return adding, largest, phases


def _runs_in(needed: Needed, grains: tuple[Grain, ...], owner: list[int], left: dict[str, int]) -> int:
    """Return the grain at whose place a module's own forward runs."""
    first = owner[needed.tensors.start]
    if is_within(needed.path, grains[first].path):
        return first
    return next((left[path] for path in upwards(needed.path) if path in left), first)

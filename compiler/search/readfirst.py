"""What people do by hand: keep what a token reads most on the accelerators, compute the rest on the host.

For a stack of equal layers these are the first layers until the cards are full; for a mixture the
attention, what all tokens share and the head, then the experts of the first layers. Tables that are
looked up in stay on the host.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import log2

from ...ir import DISK, Workload, device_type
from .arrange import bring_closer
from .costs import Costs, atom_seconds
from .problem import Atom, Loads, Place, Problem, is_legal


def most_read_first(problem: Problem, work: Workload) -> Iterator[list[Place]]:
    """Yield placements that spend accelerators on the most seconds a byte; none if that is not legal.

    What stands behind the layers, norm and head, is on the first accelerator or on the last: one of the two
    saves a change of device.
    """
    cpu = problem.cpu
    if cpu is None or cpu in problem.accelerators:
        return
    outside, classes = _computed(problem), _classes(problem, cpu, work)
    for last in (False, True)[: len(problem.accelerators)]:
        loads = Loads(problem, outside)
        for device in reversed(problem.accelerators) if last else ():
            for index in _behind(problem):
                if loads.places[index].run in problem.cpus:
                    loads.move(index, Place(device, device))
        for indices in classes:
            _fill(loads, [index for index in indices if loads.places[index] == outside[index]])
        if is_legal(problem, places := bring_closer(problem, loads.places)):
            yield places


def _behind(problem: Problem) -> list[int]:
    """Return the atoms behind the last one that has an equal: the end of the model."""
    copies = Counter(atom.kind for atom in problem.atoms)
    last = max((i for i, atom in enumerate(problem.atoms) if copies[atom.kind] > 1), default=-1)
    return list(range(last + 1, len(problem.atoms)))


def _computed(problem: Problem) -> list[Place]:
    """Return everything computed on the host, from a disk where that is listed and the host too small."""
    outside = outside_of(problem)
    disk = next((d for d in problem.hosts if device_type(problem.devices[d].name) == DISK), None)
    if disk is None or is_legal(problem, outside):
        return outside
    pairs = zip(problem.atoms, outside, strict=True)
    return [
        Place(disk, place.run) if place.run in problem.cpus and disk not in atom.banned else place
        for atom, place in pairs
    ]


def outside_of(problem: Problem) -> list[Place]:
    """Return everything on the host, or where it may be instead."""
    devices = (*problem.cpus, *problem.accelerators)
    places = {device: Place(device, device) for device in devices}
    rest = places[problem.accelerators[0]]
    return [
        next((places[device] for device in devices if device not in atom.banned), rest)
        for atom in problem.atoms
    ]


def _classes(problem: Problem, cpu: int, work: Workload) -> list[list[int]]:
    """Return the atoms by what a byte of an accelerator saves, the most first; what repeats comes last."""
    costs, card = Costs(problem), problem.accelerators[0]
    copies = Counter(atom.kind for atom in problem.atoms)
    ranks: dict[tuple[object, ...], tuple[int, bool]] = {}
    classes: dict[tuple[int, bool], list[int]] = {}
    for index, atom in enumerate(problem.atoms):
        if atom.kind not in ranks:
            saved = saved_on(costs, atom, cpu, card, work) / max(atom.cost, 1)
            ranks[atom.kind] = (-round(log2(saved)) if saved else 999, copies[atom.kind] > 1)
        classes.setdefault(ranks[atom.kind], []).append(index)
    return [classes[rank] for rank in sorted(classes)]


def saved_on(costs: Costs, atom: Atom, cpu: int, card: int, work: Workload) -> float:
    """Return the seconds of a workload that an accelerator saves an atom."""
    slow, fast = (atom_seconds(costs, atom, Place(device, device), work) for device in (cpu, card))
    return max(slow - fast, 0.0)


def _fill(loads: Loads, indices: list[int]) -> None:
    """Bring atoms in, in order, from the first accelerator on; one that holds a later atom is passed."""
    mains, cursor = loads.problem.accelerators, 0
    refused = set[tuple[object, ...]]()
    for index in indices:
        kind = loads.problem.atoms[index].kind
        if kind in refused:
            continue
        ahead = range(cursor, len(mains))
        taken = next((c for c in ahead if loads.move(index, Place(mains[c], mains[c]))), None)
        if taken is None:
            refused.add(kind)
        else:
            cursor = taken

"""What people do by hand: keep what a token reads most on the accelerators, compute the rest on the host.

For a stack of equal layers these are the first layers until the cards are full; for a mixture the
attention, what all tokens share and the head, then the experts of the first layers. Tables that are
looked up in stay on the host. Or, whatever is read how often: the first of the model on accelerators, and
the rest of it all computed on the host, or all streamed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import log2

from ...ir import Workload
from .costs import Costs, atom_seconds
from .problem import Loads, Place, Problem, is_legal


def most_read_first(problem: Problem, work: Workload) -> Iterator[list[Place]]:
    """Yield placements that spend accelerators on the most seconds a byte; none if that is not legal.

    What stands behind the layers, norm and head, is on the first accelerator or on the last: one of the two
    saves a change of device.
    """
    cpu = problem.cpu
    if cpu is None or cpu in problem.accelerators:
        return
    outside = _outside(problem)
    if not is_legal(problem, outside):
        return
    classes = _classes(problem, cpu, work)
    for last in (False, True)[: len(problem.accelerators)]:
        loads = Loads(problem, outside)
        for device in reversed(problem.accelerators) if last else ():
            for index in _behind(problem):
                if loads.places[index].run in problem.cpus:
                    loads.move(index, Place(device, device))
        for indices in classes:
            _fill(loads, [index for index in indices if loads.places[index] == outside[index]])
        yield loads.places


def first_in_order(problem: Problem) -> Iterator[tuple[str, list[Place]]]:
    """Yield placements of a model in its order: its first part on the accelerators, and what the rest does.

    There are never many changes of device, which the integer programs know nothing of.
    """
    cpu, mains = problem.cpu, problem.accelerators
    if cpu is None or cpu in mains or not is_legal(problem, outside := _outside(problem)):
        return
    loads, at = Loads(problem, outside), 0
    for index, place in enumerate(outside):
        while place.run == cpu and at < len(mains) and not loads.move(index, Place(mains[at], mains[at])):
            at += 1
    yield "compute", loads.places
    held = loads.places

    def streamed(kept: int) -> list[Place]:
        """Return those of the first that were held; the rest is run where the last of them is."""
        on_card = [place.run for place in held[:kept] if place.run in mains]
        there = Place(cpu, on_card[-1] if on_card else mains[0])
        return [*held[:kept], *(there if place.run in (cpu, *mains) else place for place in held[kept:])]

    low, high = 0, len(held)  # the fewer are held, the more room is there for what travels
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if is_legal(problem, streamed(middle)) else (low, middle - 1)
    if is_legal(problem, places := streamed(low)):
        yield "stream", places


def _behind(problem: Problem) -> list[int]:
    """Return the atoms behind the last one that has an equal: the end of the model."""
    copies = Counter(atom.kind for atom in problem.atoms)
    last = max((i for i, atom in enumerate(problem.atoms) if copies[atom.kind] > 1), default=-1)
    return list(range(last + 1, len(problem.atoms)))


def _outside(problem: Problem) -> list[Place]:
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
            slow, fast = (atom_seconds(costs, atom, Place(d, d), work) for d in (cpu, card))
            saved = max(slow - fast, 0.0) / max(atom.cost, 1)
            ranks[atom.kind] = (-round(log2(saved)) if saved else 999, copies[atom.kind] > 1)
        classes.setdefault(ranks[atom.kind], []).append(index)
    return [classes[rank] for rank in sorted(classes)]


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

"""Placements that keep the order of the layers, by what is wanted of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate, islice, permutations

from ...ir import Workload
from . import inorder
from .costs import Costs, atom_seconds
from .pipelining import segments
from .problem import Place, Problem
from .speeds import Speeds, speeds

MAX_PERMUTED = 5


def candidates(problem: Problem, objective: str, work: Workload) -> Iterator[list[Place]]:
    """Yield packings of everything that may be best for an objective."""
    line = inorder.line_of(problem)
    rooms = [inorder.room_in_order(problem, d) for d in range(len(problem.devices))]
    best: tuple[float, inorder.Segments] | None = None
    match objective:
        case "balance":
            best = inorder.minimax(problem, lambda share: (line, [int(share * room) for room in rooms]), 1.0)
        case "headroom":
            top = float(max(rooms))
            best = inorder.minimax(
                problem, lambda x: (line, [min(room, int(room - top + x)) for room in rooms]), top
            )
        case "throughput":
            timed = replace(line, clocks=_clocks(problem, work))
            slowest = max(clock[-1] for clock in timed.clocks)
            yield from segments(problem, work)
            best = inorder.minimax(problem, lambda t: (replace(timed, seconds=t), rooms), slowest)
        case "fill":
            yield from _fillings(problem, line, rooms)
        case _:
            for packing in islice(inorder.packings(problem, line, rooms), 64):
                yield packing.places()
    if best is not None:
        yield best[1].places()


def _clocks(problem: Problem, work: Workload) -> tuple[tuple[float, ...], ...]:
    """Return by device the seconds of all atoms before each position."""
    made: dict[Speeds, tuple[float, ...]] = {}
    costs = Costs(problem)
    for index, device in enumerate(problem.devices):
        if (speed := speeds(device, problem.dtype)) not in made:
            here = Place(index, index)
            seconds = (atom_seconds(costs, atom, here, work) for atom in problem.atoms)
            made[speed] = tuple(accumulate(seconds, initial=0.0))
    return tuple(made[speeds(device, problem.dtype)] for device in problem.devices)


def _fillings(problem: Problem, line: inorder.OrderedAtoms, rooms: list[int]) -> Iterator[list[Place]]:
    """Yield packings on the shortest part of the device list that holds everything."""
    mains = problem.accelerators
    for count in range(1, len(mains) + 1):
        part = [room if d in mains[:count] else -1 for d, room in enumerate(rooms)]
        found = [packing.places() for packing in islice(inorder.packings(problem, line, part), 16)]
        if found:
            yield from found
            if count <= MAX_PERMUTED:
                for order in permutations(mains[:count]):
                    yield from inorder.fill(problem, line, part, order)
            return

"""Objectives: what a placement is worth, and how long it takes by a stated cost model.

The model is a roofline. Reading a prompt is bound by operations or by memory, writing a token by
memory; a streamed atom costs the slower of its transfer and its computation. Operations are those a
trace counted, else two a weight. Rates come from the `device` lines, else from a table of known
accelerators, else from the type's default.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ...ir import Device, device_type
from .arrange import count_hops
from .problem import Atom, Place, Problem, usage

GB: Final = 1_000_000_000
HOP_SECONDS: Final = 30e-6
"""A transfer of activations between devices, and the wait that comes with it."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Bytes per second of a device's memory and of its link to the host, operations per second."""

    bandwidth: float
    link: float
    flops: float


DEFAULTS: Final = {
    "cpu": Rates(50 * GB, 50 * GB, 1e12),
    "cuda": Rates(900 * GB, 24 * GB, 120e12),
    "disk": Rates(3 * GB, 3 * GB, 1.0),
    "mps": Rates(300 * GB, 100 * GB, 14e12),
    "xpu": Rates(500 * GB, 24 * GB, 100e12),
}
KNOWN: Final = {
    "A100": Rates(1935 * GB, 25 * GB, 312e12),
    "A10": Rates(600 * GB, 25 * GB, 125e12),
    "H100": Rates(3350 * GB, 50 * GB, 989e12),
    "L4": Rates(300 * GB, 25 * GB, 121e12),
    "L40": Rates(864 * GB, 25 * GB, 181e12),
    "RTX 3090": Rates(936 * GB, 25 * GB, 71e12),
    "RTX 4090": Rates(1008 * GB, 25 * GB, 165e12),
    "T4": Rates(300 * GB, 12 * GB, 65e12),
    "V100": Rates(900 * GB, 12 * GB, 125e12),
}
"""Published rates by product name, as it may occur in a device's origin."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What is run: sequences at once, tokens read, tokens written."""

    batch: int = 1
    prompt: int = 512
    generate: int = 128


def rates(device: Device) -> Rates:
    """Return what is known of a device's speed."""
    words = device.origin.replace(",", " ").replace("-", " ")
    known = [KNOWN[name] for name in sorted(KNOWN, key=len, reverse=True) if f" {name} " in f" {words} "]
    base = (known or [DEFAULTS.get(device_type(device.name), DEFAULTS["cuda"])])[0]
    return Rates(device.bandwidth or base.bandwidth, device.link or base.link, device.flops or base.flops)


def atom_seconds(problem: Problem, atom: Atom, place: Place, work: Workload) -> float:
    """Return the time an atom takes at a place over a whole workload.

    What was not measured is taken to use every weight for every token, two operations each, two bytes
    a weight.
    """
    run, store = rates(problem.devices[place.run]), rates(problem.devices[place.store])
    transfer = atom.weight / min(run.link, store.link) if place.streamed else 0.0
    flops, reads = atom.effort or (float(atom.weight), float(atom.weight))

    def call(tokens: int) -> float:
        if tokens == 0:
            return 0.0
        return max(min(atom.weight, reads * tokens) / run.bandwidth, flops * tokens / run.flops, transfer)

    return call(work.batch * work.prompt) + work.generate * call(work.batch)


def latency(problem: Problem, places: Sequence[Place], work: Workload) -> float:
    """Return the seconds of one workload: one device works at a time."""
    pairs = zip(problem.atoms, places, strict=True)
    busy = sum(atom_seconds(problem, atom, place, work) for atom, place in pairs)
    return busy + count_hops(problem, places) * HOP_SECONDS * (1 + work.generate)


def throughput(problem: Problem, places: Sequence[Place], work: Workload) -> float:
    """Return the seconds of the busiest device: the time per workload of a full pipeline."""
    busy = [0.0] * len(problem.devices)
    for atom, place in zip(problem.atoms, places, strict=True):
        busy[place.run] += atom_seconds(problem, atom, place, work)
    return max(busy, default=0.0)


def value_of(objective: str, problem: Problem, places: list[Place], work: Workload) -> float:
    """Return what an objective makes of a placement; less is better."""
    used, mains = usage(problem, places), problem.accelerators
    match objective:
        case "balance":
            return max((used[d] / max(problem.rooms[d], 1) for d in mains), default=0.0)
        case "headroom":
            return -float(min((problem.rooms[d] - used[d] for d in mains), default=0))
        case "latency":
            return latency(problem, places, work)
        case "throughput":
            return throughput(problem, places, work)
        case _:
            return float(len({place.run for place in (*places, *problem.fixed.values())}))


def bound_of(objective: str, problem: Problem, work: Workload) -> float:
    """Return a value no placement without spill can beat."""
    mains = problem.accelerators
    rooms = sorted((problem.rooms[d] for d in mains), reverse=True)
    largest = max((atom.cost for atom in problem.atoms), default=0)
    if not mains or not problem.atoms:
        return 0.0
    match objective:
        case "balance":
            return max(problem.total / max(sum(rooms), 1), largest / max(rooms[0], 1))
        case "headroom":
            return -float(min((sum(rooms) - problem.total) / len(rooms), rooms[-1]))
        case "latency":
            return sum(map(min, _times(problem, work)))
        case "throughput":
            return _least_busy(_times(problem, work))
        case _:
            return float(fewest_possible(problem, rooms))


def _times(problem: Problem, work: Workload) -> list[list[float]]:
    """Return the seconds of every atom on every accelerator."""
    mains = [Place(d, d) for d in problem.accelerators]
    return [[atom_seconds(problem, atom, place, work) for place in mains] for atom in problem.atoms]


def _least_busy(times: list[list[float]]) -> float:
    """Return a time the busiest device cannot beat.

    By duality any weights of the devices that add up to 1 give such a time: the sum over atoms of the
    least weighted time. Weights by the speed of each device are exact where speeds differ by one factor.
    """
    columns: list[tuple[float, ...]] = list(zip(*times, strict=True))
    speeds = [1 / max(sum(column), 1e-300) for column in columns]
    weights = [speed / sum(speeds) for speed in speeds]
    shared = sum(min(w * t for w, t in zip(weights, row, strict=True)) for row in times)
    return max(shared, *map(min, times))


def fewest_possible(problem: Problem, rooms: list[int]) -> int:
    """Return how many of the largest devices hold as many bytes as there are."""
    fixed = {place.run for place in problem.fixed.values()}
    left, count = problem.total, 0
    for room in rooms:
        if left <= 0:
            break
        left, count = left - room, count + 1
    return max(count, len(fixed), 1)

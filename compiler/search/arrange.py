"""From counts to places: which of the equal atoms go where, with few changes of device.

Streamed atoms are spread evenly between resident ones: a transfer hides behind the computation
before it, and behind a cluster of transfers there is nothing to hide.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import groupby

from ...ir import DISK, device_type
from .outoforder import Counts
from .problem import Loads, Place, Problem, twins


def longest_cluster(places: Sequence[Place]) -> int:
    """Return how many streamed atoms follow each other at most."""
    runs = groupby(place.streamed for place in places)
    return max((len(list(run)) for streamed, run in runs if streamed), default=0)


def arrange(problem: Problem, counts: Counts, *, by_run: bool) -> list[Place]:
    """Return a place for every atom with exactly these counts by group."""
    table = [_by_device(entry) for entry in counts.table]
    group_of = [0] * len(problem.atoms)
    for index, group in enumerate(counts.groups):
        for member in group.members:
            group_of[member] = index
    runs = _one_by_one(counts, table) if by_run else _furthest_first(group_of, table)
    return _spread(counts, group_of, runs)


def _by_device(entry: dict[Place, int]) -> dict[int, int]:
    found: dict[int, int] = {}
    for place, count in entry.items():
        found[place.run] = found.get(place.run, 0) + count
    return found


def _furthest_first(group_of: list[int], table: list[dict[int, int]]) -> list[int]:
    """Walk the atoms, each time with the device whose remaining counts reach furthest."""
    left = [dict(entry) for entry in table]
    devices = sorted({device for entry in table for device in entry})
    runs: list[int] = []
    while len(runs) < len(group_of):
        reach = {device: _reach(group_of, left, len(runs), device) for device in devices}
        device = max(devices, key=lambda d: (reach[d], -d))
        for group in group_of[len(runs) : reach[device]]:
            left[group][device] -= 1
        runs += [device] * (reach[device] - len(runs))
    return runs


def _reach(group_of: list[int], left: list[dict[int, int]], start: int, device: int) -> int:
    taken: dict[int, int] = {}
    for position in range(start, len(group_of)):
        group = group_of[position]
        taken[group] = taken.get(group, 0) + 1
        if taken[group] > left[group].get(device, 0):
            return position
    return len(group_of)


def _one_by_one(counts: Counts, table: list[dict[int, int]]) -> list[int]:
    """Order the devices of each run so that it starts where the last ended, if it can."""
    runs: list[int] = []
    following = [*table[1:], {}]
    for entry, after in zip(table, following, strict=True):
        here = sorted(device for device, count in entry.items() if count)
        last = runs[-1] if runs else -1
        start = [device for device in here if device == last]
        end = [device for device in here if device in after and device not in start][:1]
        for device in [*start, *(d for d in here if d not in start and d not in end), *end]:
            runs += [device] * entry[device]
    order = [member for group in counts.groups for member in group.members]
    placed = dict(zip(order, runs, strict=True))
    return [placed[index] for index in range(len(runs))]


def _spread(counts: Counts, group_of: list[int], runs: list[int]) -> list[Place]:
    """Among the members of a group that run on one device, spread the streamed ones evenly."""
    queues: dict[tuple[int, int], list[Place]] = {}
    for index, entry in enumerate(counts.table):
        for device in {place.run for place in entry}:
            queues[index, device] = _interleave({p: n for p, n in entry.items() if p.run == device})
    for queue in queues.values():
        queue.reverse()
    return [queues[group, device].pop() for group, device in zip(group_of, runs, strict=True)]


def _interleave(entry: dict[Place, int]) -> list[Place]:
    total = sum(entry.values())
    slots = [
        ((2 * i + 1) * total / (2 * count), place) for place, count in entry.items() for i in range(count)
    ]
    return [place for _, place in sorted(slots)]


def spread_out(problem: Problem, places: Sequence[Place]) -> list[Place]:
    """Return the placement with the streamed ones of equal atoms on one device spread evenly."""
    spread, alike = list(places), dict[tuple[object, int], list[int]]()
    for index, (atom, place) in enumerate(zip(problem.atoms, places, strict=True)):
        alike.setdefault((atom.kind, place.run), []).append(index)
    for members in alike.values():
        for index, place in zip(members, _interleave(Counter(places[i] for i in members)), strict=True):
            spread[index] = place
    return spread


def bring_closer(problem: Problem, places: list[Place]) -> list[Place]:
    """Move what is on disk to a host with room, the largest first."""
    slowest = {d for d in problem.hosts if device_type(problem.devices[d].name) == DISK}
    faster = [d for d in problem.hosts if d not in slowest]
    loads = Loads(problem, places)
    for index in _largest_first(problem):
        place = loads.places[index]
        if place.store in slowest:
            for host in (h for h in faster if problem.beside(h, place.run)):
                if loads.move(index, place._replace(store=host)):
                    break
    return loads.places


def move_in(
    problem: Problem, places: list[Place], wanted: Collection[int], onto: Sequence[int]
) -> list[Place]:
    """Bring those of the wanted atoms that are off the accelerators onto these, the largest first."""
    mains = frozenset(problem.accelerators)
    outside = [index for index in wanted if places[index].store not in mains]
    if not outside:
        return places
    loads, refused = Loads(problem, places), set[tuple[object, Place]]()
    for index in sorted(outside, key=lambda i: (-problem.atoms[i].weight, i)):
        kind, place = problem.atoms[index].kind, loads.places[index]
        if (kind, place) in refused:
            continue
        moved = any(loads.move(index, Place(d, d)) for d in sorted(onto, key=lambda d: (d != place.run, d)))
        if not moved:
            refused.add((kind, place))
    return loads.places


def _largest_first(problem: Problem) -> list[int]:
    return sorted(range(len(problem.atoms)), key=lambda i: (-problem.atoms[i].weight, i))


def in_list_order(problem: Problem, places: list[Place]) -> list[Place]:
    """Return the placement with equal accelerators named in the order in which the model meets them."""
    taken = {device for place in problem.fixed.values() for device in place}
    shared = {device for pool in problem.pools for device in pool.members}
    free = [device for device in problem.accelerators if device not in taken | shared]
    met = [device for device in dict.fromkeys(place.run for place in places) if device in free]
    named: dict[int, int] = {}
    for device in [*met, *(each for each in free if each not in met)]:
        alike = (each for each in free if each not in named.values() and _alike(problem, device, each))
        named[device] = next(alike)
    return [Place(named.get(store, store), named.get(run, run)) for store, run in places]


def _alike(problem: Problem, first: int, second: int) -> bool:
    here, there = problem.devices[first], problem.devices[second]
    same = replace(here, name=there.name) == there and here.origin == there.origin
    linked = any(not {link.a, link.b}.isdisjoint((here.name, there.name)) for link in problem.links)
    return first == second or (same and not linked and twins(problem, first, second))

"""Out-of-order placement through integer programming: how many of each kind go where.

Atoms that are alike are one integer, so eighty equal layers cost no more than two. The first
program keeps the most bytes on the accelerators, the second the order of the layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from .clock import Clock
from .formulate import Builder, Group, groups_of, runs_of
from .highs import NODE_LIMIT
from .problem import UNLIMITED, Place, Problem, uses_of

MAX_HOP_COLUMNS: Final = 400
"""Larger programs take tens of seconds and found nothing better than what began them."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How many members of each group are at each place, and what the solver proved."""

    groups: tuple[Group, ...]
    table: tuple[dict[Place, int], ...]
    bound: int
    """No placement keeps more bytes on the accelerators."""
    proven: bool


def most_bytes(problem: Problem, policy: str, clock: Clock, roughly: float = 0.0) -> Counts | None:
    """Return the counts that keep the most bytes on accelerators; None when nothing is legal.

    They may be fewer by the share that is ``roughly`` enough: proving the last bytes takes the longest.
    """
    groups = groups_of(problem)
    if not groups:  # everything is pinned
        return Counts(groups, (), 0, proven=True)
    tightened, bound = problem, sum(atom.weight for atom in problem.atoms)
    for attempt in range(5):
        builder = Builder(tightened, groups, policy)
        builder.order_equal_devices()
        kept = builder.keep_bytes()
        for column, value in kept:
            builder.program.costs[column] = -value
        gap = max(roughly, 0.0 if builder.unit == builder.exact else 1e-5)
        answer = clock.solve(builder.program, gap=gap)
        if not answer.values:
            return None
        if attempt == 0:
            bound = min(bound, int((1e-6 - answer.bound) * builder.unit) // builder.exact * builder.exact)
        table = builder.table(answer.values)
        over = overruns(problem, groups, table)
        if not any(over):
            return Counts(groups, table, bound, answer.status == "optimal" and attempt == 0)
        tightened = _tighten(tightened, over, int(builder.unit * 1e-5 * 10**attempt))
    return None


def _tighten(problem: Problem, over: list[int], least: int) -> Problem:
    """Take from each device what the solver's tolerance gave it too much, and a little more."""
    rooms = tuple(
        room - max(2 * excess, least) if excess and room < UNLIMITED else room
        for room, excess in zip(problem.rooms, over, strict=True)
    )
    pools = tuple(
        pool._replace(room=pool.room - max(2 * max(over[d] for d in pool.members), least))
        if any(over[d] for d in pool.members)
        else pool
        for pool in problem.pools
    )
    return replace(problem, rooms=rooms, pools=pools)


def fewest_hops(problem: Problem, policy: str, kept: int, clock: Clock) -> Counts | None:
    """Return counts by run of equal atoms that keep ``kept`` bytes with the fewest changes of device."""
    groups = runs_of(problem)
    builder = Builder(problem, groups, policy)
    if len(builder.program.costs) > MAX_HOP_COLUMNS:
        return None
    builder.program.at_most(-builder.amount(kept), [(c, -v) for c, v in builder.keep_bytes()])
    _count_hops(builder)
    answer = clock.solve(builder.program, nodes=NODE_LIMIT // 10, gap=0.0)
    if not answer.values:
        return None
    table = builder.table(answer.values)
    if any(overruns(problem, groups, table)):
        return None
    return Counts(groups, table, kept, answer.status == "optimal")


def least_extra(
    problem: Problem, policy: str, device: int, clock: Clock, *, gap: float = 1e-6, nodes: int = NODE_LIMIT
) -> int | None:
    """Return the bytes ``device`` lacks for a legal placement under a policy; None if no bytes help.

    They are enough, and the least but for a share of ``gap`` where the ``nodes`` suffice to show it.
    """
    groups = groups_of(problem)
    builder = Builder(problem, groups, policy, relieved=device)
    answer = clock.solve(builder.program, gap=gap, nodes=nodes)
    if not answer.values:
        return None
    over = overruns(problem, groups, builder.table(answer.values))
    if any(n for d, n in enumerate(over) if d != device):
        return None
    rooms = [problem.rooms[device], *(pool.room for pool in problem.pools if device in pool.members)]
    return over[device] + max(0, -min(rooms))  # what lines place there alone may be too much


def _count_hops(builder: Builder) -> None:
    program, before = builder.program, dict[int, int]()
    for group, columns in zip(builder.groups, builder.columns, strict=True):
        used: dict[int, int] = {}
        for device in sorted({place.run for place in columns}):
            here = [(column, 1.0) for place, column in columns.items() if place.run == device]
            used[device] = program.column(cost=1.0)
            program.at_most(0.0, [(used[device], -float(len(group.members))), *here])
            program.at_most(0.0, [(used[device], 1.0), *((c, -1.0) for c, _ in here)])
        stays = {device: program.column(cost=-1.0) for device in used if device in before}
        for device, column in stays.items():
            program.at_most(0.0, [(column, 1.0), (used[device], -1.0)])
            program.at_most(0.0, [(column, 1.0), (before[device], -1.0)])
        if stays:
            program.at_most(1.0, [(column, 1.0) for column in stays.values()])
        before = used


def overruns(
    problem: Problem, groups: tuple[Group, ...], table: tuple[dict[Place, int], ...]
) -> list[int]:  # fmt: skip
    """Return by device how many bytes the counts exceed its room or its pool, exactly."""
    used, uses = [0] * len(problem.devices), uses_of(problem)
    for group, place, count in _entries(groups, table):
        used[place.store] += count * group.atom.weight
        uses[place.run].take(group.atom, streamed=place.streamed, count=count)
    loads = [load + use.nbytes() for load, use in zip(used, uses, strict=True)]
    over = [max(0, load - max(0, room)) for load, room in zip(loads, problem.rooms, strict=True)]
    for pool in problem.pools:
        excess = sum(loads[d] for d in pool.members) - max(0, pool.room)
        for device in pool.members:
            over[device] = max(over[device], excess)
    return over


def _entries(
    groups: tuple[Group, ...], table: tuple[dict[Place, int], ...]
) -> Iterator[tuple[Group, Place, int]]:
    for group, counts in zip(groups, table, strict=True):
        for place, count in counts.items():
            yield group, place, count

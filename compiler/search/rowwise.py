"""What travels by rows when it is streamed: tables that are looked up in, experts of which a few are chosen.

Said in the plan as ``by rows``. A call knows its rows only when it is there, so they are waited for, but
they are few: a token of a mixture takes some of the experts, of a table one line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from ...ir import Cache
from .atoms import PlanProblem
from .problem import UNLIMITED, Atom, Place, Problem, usage

_CACHED: Final = 0.9
"""Of what is left on a device: what crosses into parts elsewhere is counted after the search."""


def with_caches(problem: Problem, places: list[Place]) -> Problem:
    """Return the problem in which what a placement leaves free holds the rows used last."""
    used, pooled = usage(problem, places), {d for pool in problem.pools for d in pool.members}
    rows = {p.run for a, p in zip(problem.atoms, places, strict=True) if a.rows and p.streamed}
    left = [
        int((room - load) * _CACHED) if d in rows and d not in pooled and room < UNLIMITED else 0
        for d, (room, load) in enumerate(zip(problem.rooms, used, strict=True))
    ]
    return replace(problem, caches=tuple(map(max, left, problem.caches)))


def kept_for_rows(model: PlanProblem, places: list[Place], written: Sequence[Cache]) -> Iterator[Cache]:
    """Yield the caches of a placement that no line asks for, by what they hold rows of."""
    problem, lines = model.problem, {cache.device for cache in written}
    for index, nbytes in enumerate(problem.caches):
        name = problem.devices[index].name
        atoms = [
            a for a, p in zip(problem.atoms, places, strict=True) if a.rows and p.streamed and p.run == index
        ]
        if nbytes and atoms and name not in lines:
            paths = (model.grains[atom.grains[0]].path for atom in atoms)
            alike = dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\.)", "*", path) for path in paths)
            yield Cache(nbytes, tuple(alike), name, added=True)


def by_stacks(problem: Problem) -> Problem:
    """Return the problem in which everything that is streamed travels whole."""
    return replace(problem, atoms=tuple(_whole(atom) for atom in problem.atoms))


def _whole(atom: Atom) -> Atom:
    return replace(atom, rows=False) if atom.rows else atom

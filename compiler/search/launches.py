"""How often a forward asks its devices for operations: what rows of work tell, by grain.

A loop over experts asks for more the more of them a call meets.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Final, NamedTuple

from ...ir import ModuleTree, Plan, Work
from ..sources.config_work import ROUTED
from .efforts import shares_of

LOOP: Final = 8
"""More operations for each expert that was met are a loop over them; fewer are products of all at once."""


class Launches(NamedTuple):
    """How many operations a call asks for."""

    always: float = 0.0
    met: float = 0.0
    """Those of a loop over experts if all of them are met."""
    share: float = 0.0
    """Which part of the experts a token meets."""

    def of(self, tokens: int) -> float:
        """Return what a call of so many tokens asks for."""
        return self.always + self.met * min(1.0, self.share * tokens)


def launches_of(plan: Plan, tree: ModuleTree, owner: Sequence[int], count: int) -> tuple[Launches, ...]:
    """Return the launches of each of ``count`` grains; a row that names several is shared out by bytes.

    ``owner`` are the grains of the tensors. Empty where no row tells of any.
    """
    if not any(row.launches for row in plan.work):
        return ()
    found = [Launches()] * count
    for row in plan.work:
        told = _told(tree, row)
        for tensor, part in shares_of(tree, row.path):
            old = found[owner[tensor]]
            share = told.share or old.share
            found[owner[tensor]] = Launches(old.always + told.always * part, old.met + told.met * part, share)
    return tuple(found)


def _told(tree: ModuleTree, row: Work) -> Launches:
    """Return the launches of a row; those of a loop over experts as if all had been met."""
    module = tree.module_index.get(row.path)
    if module is None or not ROUTED.search(tree.names[module]) or not row.tokens:
        return Launches(row.launches)
    own, weights = tree.own_tensors(module), sum(prod(tree.shapes[t]) for t in tree.covered(row.path))
    count = tree.shapes[own[0]][0] if len(own) and tree.shapes[own[0]] else len(tree.children(module))
    share = min(1.0, row.flops / row.tokens / 2 / max(weights, 1))
    part = min(1.0, share * row.tokens)
    if not part or row.launches <= LOOP * max(1.0, count * part):
        return Launches(row.launches)
    return Launches(0.0, row.launches / part, share)

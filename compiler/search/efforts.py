"""How much computing a grain is: what a trace measured, shared out over what a row of work names."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from ...ir import ModuleTree, Plan, Work


class Effort(NamedTuple):
    """What one token costs an atom."""

    flops: float
    reads: float
    """Bytes of weights it needs, at most all of them: a table looked up in or an expert that is not
    chosen is not read."""


class Efforts:
    """The effort of grains and of what is made of them; None where the plan's work does not cover it."""

    def __init__(self, plan: Plan, tree: ModuleTree, owner: list[int], count: int) -> None:
        self._flops: list[float | None] = [None] * count
        self._nbytes, self._weights = [0] * count, [0] * count
        if plan.work:
            self._count_weights(tree, owner)
            for row in plan.work:
                self._share_out(row, tree, owner)

    def _count_weights(self, tree: ModuleTree, owner: list[int]) -> None:
        for tensor, nbytes in enumerate(tree.nbytes or ()):
            if nbytes:  # tied ones once
                self._nbytes[owner[tensor]] += nbytes
                self._weights[owner[tensor]] += prod(tree.shapes[tensor])

    def _share_out(self, row: Work, tree: ModuleTree, owner: list[int]) -> None:
        """Add a row to what it names; several grains get shares by their bytes."""
        parts, prefix, sizes = tree.covered(row.path), tree.prefix_bytes, tree.nbytes or ()
        total = prefix[parts.stop] - prefix[parts.start]
        for tensor in parts:
            share = sizes[tensor] / total if total else 1 / len(parts)
            known = self._flops[owner[tensor]] or 0.0
            self._flops[owner[tensor]] = known + row.flops / max(row.tokens, 1) * share

    def of(self, grains: list[int]) -> Effort | None:
        """Return the effort of grains together. Two operations use one weight, which bounds the reading."""
        flops = 0.0
        for grain in grains:
            known = self._flops[grain]
            if known is None:
                return None
            flops += known
        nbytes, weights = sum(self._nbytes[g] for g in grains), sum(self._weights[g] for g in grains)
        return Effort(flops, min(nbytes, flops / 2 * nbytes / max(weights, 1)))

"""How much computing a grain is: what rows of work tell, shared out over what they name, else its weights."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Final, NamedTuple

from ...ir import ModuleTree, Plan, Work
from ..placing.grains import Grain
from ..sources.config_work import ROUTED

_USES_ALL: Final = 0.75
"""What needs more of its weights for one token is streamed whole: that overlaps with computing."""


class Effort(NamedTuple):
    """What one token costs an atom."""

    flops: float
    reads: float
    """Bytes of weights it needs, at most all of them: a table looked up in or an expert that is not
    chosen is not read."""


class Efforts:
    """The effort of grains and of what is made of them; None in a plan without rows of work."""

    def __init__(self, plan: Plan, tree: ModuleTree, owner: list[int], count: int) -> None:
        self._told = bool(plan.work)
        self._flops = [0.0] * count
        self._nbytes, self._weights = [0] * count, [0] * count
        if self._told:
            counts = [prod(shape) for shape in tree.shapes]
            covered = bytearray(len(counts))
            for row in plan.work:
                self._share_out(row, tree, owner, covered)
            self._take_weights(tree, owner, counts, covered)

    def _share_out(self, row: Work, tree: ModuleTree, owner: list[int], covered: bytearray) -> None:
        """Add a row to what it names; several grains get shares."""
        parts = tree.covered(row.path)
        covered[parts.start : parts.stop] = b"\1" * len(parts)
        for tensor, share in shares_of(tree, row.path):
            self._flops[owner[tensor]] += row.flops / max(row.tokens, 1) * share

    def _take_weights(
        self, tree: ModuleTree, owner: list[int], counts: list[int], covered: bytearray
    ) -> None:
        """Count bytes and weights, and two operations for each weight that no row covers."""
        for tensor, nbytes in enumerate(tree.nbytes or ()):
            grain = owner[tensor]
            if not covered[tensor]:
                self._flops[grain] += 2 * counts[tensor]
            if nbytes:  # tied ones once
                self._nbytes[grain] += nbytes
                self._weights[grain] += counts[tensor]

    def of(self, grains: list[int]) -> Effort | None:
        """Return the effort of grains together. Two operations use one weight, which bounds the reading."""
        if not self._told:
            return None
        flops = sum([self._flops[g] for g in grains])
        nbytes, weights = sum(self._nbytes[g] for g in grains), sum(self._weights[g] for g in grains)
        return Effort(flops, min(nbytes, flops / 2 * nbytes / max(weights, 1)))


def shares_of(tree: ModuleTree, path: str) -> Iterator[tuple[int, float]]:
    """Yield the tensors a path covers, each with its share of all their bytes."""
    parts, prefix, sizes = tree.covered(path), tree.prefix_bytes, tree.nbytes or ()
    total = prefix[parts.stop] - prefix[parts.start]
    for tensor in parts:
        yield tensor, sizes[tensor] / total if total else 1 / len(parts)


def takes_rows(tree: ModuleTree, grain: Grain, effort: Effort | None) -> bool:
    """Say whether the loader can bring a grain by rows, and a token needs few enough of them."""
    module = tree.module_index.get(grain.path)
    if module is None or effort is None:
        return False
    own = tree.tensors(module)
    if own != tree.covered(grain.path) or (own.start, own.stop) != (grain.start, grain.stop):
        return False  # modules inside hold tensors; activations do not
    if len(own) == 1 and not effort.flops:  # it is not multiplied: it is looked up in
        return len(tree.shapes[own[0]]) == 2
    counts = {tree.shapes[tensor][:1] for tensor in own}
    weights = sum(prod(tree.shapes[tensor]) for tensor in own)
    stacked = bool(ROUTED.search(tree.names[module])) and len(counts) == 1 and counts != {()}
    return stacked and effort.flops < 2 * _USES_ALL * weights

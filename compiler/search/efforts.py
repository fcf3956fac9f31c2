"""How much computing a grain is: what rows of work tell, shared out over what they name, else its weights."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Final, NamedTuple

from ...ir import ModuleTree, Plan
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
        self._flops, self._reads = [0.0] * count, [0.0] * count
        if self._told:
            flops = _flops(plan, tree)
            for grain, done, read in zip(owner, flops, _reads(tree, flops), strict=True):
                self._flops[grain] += done
                self._reads[grain] += read

    def of(self, grains: list[int]) -> Effort | None:
        """Return the effort of grains together."""
        if not self._told:
            return None
        return Effort(sum([self._flops[g] for g in grains]), sum([self._reads[g] for g in grains]))


def _flops(plan: Plan, tree: ModuleTree) -> list[float]:
    """Return the operations of a token by tensor: two for each weight that no row of work names."""
    counts = [prod(shape) for shape in tree.shapes]
    found, covered = [0.0] * len(counts), bytearray(len(counts))
    for row in plan.work:
        parts = tree.covered(row.path)
        covered[parts.start : parts.stop] = b"\1" * len(parts)
        for tensor, share in shares_of(tree, row.path):
            found[tensor] += row.flops / max(row.tokens, 1) * share
    return [done if known else 2.0 * n for done, known, n in zip(found, covered, counts, strict=True)]


def _reads(tree: ModuleTree, flops: list[float]) -> list[float]:
    """Return the bytes of weights a token reads by tensor: two operations use one weight, which bounds them.

    By tensor, as a layer's weights differ in width: few of its experts are read, of its attention all is.
    """
    uses = [0.0] * len(flops)
    for storage, done in zip(tree.storages, flops, strict=True):
        uses[storage] += done / 2
    return [
        min(nbytes, used * nbytes / max(prod(shape), 1))
        for used, nbytes, shape in zip(uses, tree.nbytes or (), tree.shapes, strict=True)
    ]


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

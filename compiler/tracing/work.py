"""Rows of work for a plan: the operations of each piece that may get a device of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, TypeVar

from ...ir import ModuleTree, Work
from .cuts import Cuts
from .trace import Enter, Op, Origin, Trace

K = TypeVar("K")
V = TypeVar("V")
LARGEST: Final = 2**63 - 1
_DEPTH: Final = 2
_LOOKUP: Final = "aten.embedding.default"


def work(trace: Trace, cuts: Cuts, positions: int = 1) -> Iterator[Work]:
    """Yield the operations of each piece, equal ones together, one forward long; rows add up.

    ``positions`` were read for each whose scores were asked for: the head is told as if it made them all.

    A piece with weights has a row even if it computes nothing: a table is looked up in, not multiplied.
    What modules around pieces ask for themselves is told with the first of their pieces.
    """
    tree, tops, tokens = trace.tree, cuts.tops(), tokens_of(trace)
    totals: dict[int, int] = {}
    launches: dict[int, int] = {}
    heads = {trace.maker(value) for value in trace.logits}
    for module, own in enumerate(trace.own_flops):
        flops = own * positions if module in heads else own
        piece = module if tops[module] < 0 else visitable_part(tree, module, tops[module])
        if flops or len(tree.own_tensors(module)):
            totals[piece] = totals.get(piece, 0) + flops
        launches[piece] = launches.get(piece, 0) + trace.own_launches[module]
    asked = _by_row(tree, [piece for piece in totals if len(tree.tensors(piece))], launches)
    alike = {piece: (totals[piece], asked[piece]) for piece in sorted(asked)}
    for piece, (flops, count) in equal_together(alike):
        yield Work(min(flops, LARGEST), tree.paths[piece], tokens, count)


def equal_together(values: Mapping[K, V]) -> list[tuple[K, V]]:
    """Return equal values together, in the order each first comes in: a plan tells those in one line."""
    first: dict[V, int] = {}
    for at, value in enumerate(values.values()):
        first.setdefault(value, at)
    return sorted(values.items(), key=lambda item: first[item[1]])


def _by_row(tree: ModuleTree, rows: list[int], launches: dict[int, int]) -> dict[int, int]:
    """Return the launches by row; what has none of its own goes to the row around it, or the first inside."""
    found = dict.fromkeys(sorted(rows), 0)
    for piece, count in launches.items():
        row = piece
        while row not in found and row:
            row = tree.parents[row]
        if row not in found:
            row = next((each for each in found if piece <= each < tree.ends[piece]), min(found, default=-1))
        if row in found:
            found[row] += count
    return found


def visitable_part(tree: ModuleTree, module: int, top: int) -> int:
    """Return what of a whole module a part of it counts to: a part two levels inside may be visited.

    What is no more than tensors is not visited for itself.
    """
    chain = [module]
    while chain[-1] != top:
        chain.append(tree.parents[chain[-1]])
    inner = chain[max(0, len(chain) - 1 - _DEPTH) :]
    return next((each for each in inner if tree.children(each) or len(tree.tensors(each)) > 1), top)


def tokens_of(trace: Trace) -> int:
    """Return how many tokens were read: indices that come from the inputs, as first looked up in a table."""
    given = {value for value, item in enumerate(trace.values) if item.origin is Origin.INPUT}
    for step in trace.steps:
        if isinstance(step, Enter):
            given |= {inner for outer, inner in step.arguments if outer in given}
        elif isinstance(step, Op):
            found = [value for value in (*step.inputs, *step.loose) if value in given]
            if found and step.name == _LOOKUP:
                return trace.values[found[-1]].own_nbytes // trace.values[found[-1]].width
            if found:
                given.update(step.outputs)
    return 0

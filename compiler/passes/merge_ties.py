"""Find the tensors that share storage: each such group is one cost and gets one place.

The bytes of a group are carried by its first tensor in tree order; the others cost nothing.

Before:
    plan 1
    model "m"
    module embed : Embedding 2KiB
    module head : Linear 2KiB
    tie embed.weight = head.weight

After:
    plan 1
    model "m"
    tie embed.weight = head.weight
    module embed : Embedding
    parameter embed.weight : uint8[2048] 2KiB
    module head : Linear
    parameter head.weight : uint8[2048] 0B
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

from ...ir import Diagnostics, ModuleTree, Plan, Role, TieGroup
from .pipeline import Fact


@dataclass(frozen=True, slots=True)
class MergeTies:
    """``parameters_only``: as accelerate means it, only the same parameter under two names is a tie."""

    name: ClassVar[str] = "merge-ties"
    needs: ClassVar[frozenset[Fact]] = frozenset()
    gives: ClassVar[frozenset[Fact]] = frozenset({Fact.TIED})
    parameters_only: bool = False

    def run(self, plan: Plan, diagnostics: Diagnostics) -> Plan:
        """Return the plan with its tie groups, and their bytes counted once."""
        del diagnostics
        tree = plan.tree
        if tree is None:
            return plan
        edges = [*_written(tree, plan.ties), *_shared(tree, parameters_only=self.parameters_only)]
        groups = _components(edges)
        written = {tie.tensors: tie for tie in plan.ties}
        named = (tuple(tree.tensor_paths[tensor] for tensor in group) for group in groups)
        ties = tuple(written.get(tensors) or TieGroup(tensors) for tensors in named)
        return replace(plan, ties=ties, tree=_count_once(tree))


def _shared(tree: ModuleTree, *, parameters_only: bool) -> Iterator[tuple[int, int]]:
    """Yield (first, later) for every tensor that is not the first of its storage."""
    if not parameters_only:
        return ((first, i) for i, first in enumerate(tree.storages) if first != i)
    same = tree.objects or tree.storages
    return (
        (first, i)
        for i, first in enumerate(same)
        if first != i and tree.roles[i] is tree.roles[first] is Role.PARAMETER
    )


def _written(tree: ModuleTree, ties: tuple[TieGroup, ...]) -> Iterator[tuple[int, int]]:
    for tie in ties:
        members = [tree.tensor_index[path] for path in tie.tensors if path in tree.tensor_index]
        yield from pairwise(members)


def _components(edges: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Return the connected groups, each in tree order, ordered by their first members."""
    edges = list(edges)
    if not edges:
        return []
    import networkx as nx  # only models with ties pay for it

    graph: nx.Graph[int] = nx.Graph()
    graph.add_edges_from(edges)
    return sorted(sorted(group) for group in nx.connected_components(graph))


def _count_once(tree: ModuleTree) -> ModuleTree:
    """Move the bytes of each storage to its first tensor: the largest member, or what is known exactly."""
    if tree.nbytes is None or tree.storages == tuple(range(len(tree.storages))):
        return tree
    nbytes = list(tree.nbytes)
    for tensor, first in enumerate(tree.storages):
        if first != tensor:
            nbytes[first] = max(nbytes[first], nbytes[tensor])
            nbytes[tensor] = 0
    return tree if tuple(nbytes) == tree.nbytes else tree.sized(tuple(nbytes))

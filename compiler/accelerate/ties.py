"""Ties as accelerate sees them: the same parameter object under several names, found by name.

It asks whether one dotted name occurs anywhere inside another, so `a` seems to contain `x.a.weight`
and `xa.weight`. Where a tied parameter's module has its place already, or the parameter waits on its
own, accelerate has no answer and crashes: `OutOfReach`.
"""

from __future__ import annotations

from bisect import bisect_left

from ...ir import ModuleTree, Role
from ..placing.frontier import Worklist, item_at, item_tensors


class OutOfReach(Exception):  # noqa: N818  # not an error of ours: a decision accelerate cannot make
    """A unit is tied to something that no waiting module contains any more."""


class NamedTies:
    """The tie groups of a tree; ``groups`` hold tensor indices in alphabetical order of their paths."""

    def __init__(self, tree: ModuleTree, counted: list[int]) -> None:
        self._tree = tree
        self.groups = _groups(tree) if 0 in counted else []
        self._group_of = {tensor: i for i, group in enumerate(self.groups) for tensor in group}
        self._members = sorted(self._group_of)
        self._mistaken = _mistaken(tree, self._members)

    def outside(self, item: int) -> list[int]:
        """Return the tensors that are tied to something in an item and seem to be outside it."""
        tensors = item_tensors(self._tree, item)
        first = bisect_left(self._members, tensors.start)
        inside = set(self._members[first : bisect_left(self._members, tensors.stop)])
        inside |= self._mistaken.get(item, set())
        touched = sorted({self._group_of[tensor] for tensor in inside})
        return [tensor for group in touched for tensor in self.groups[group] if tensor not in inside]

    def holder(self, tensor: int, work: Worklist) -> int:
        """Return the waiting module that contains a tensor.

        Raises:
            OutOfReach: there is none.

        """
        holder = work.holder(tensor)
        if holder is None or holder < 0:
            raise OutOfReach(self._tree.tensor_paths[tensor])
        return holder


def _groups(tree: ModuleTree) -> list[list[int]]:
    groups: dict[int, list[int]] = {}
    for tensor, key in enumerate(tree.objects or tree.storages):
        if tree.roles[tensor] is Role.PARAMETER:
            groups.setdefault(key, []).append(tensor)
    paths = tree.tensor_paths if len(groups) < len(tree.tensor_names) else ()
    return [sorted(group, key=paths.__getitem__) for group in groups.values() if len(group) > 1]


def _mistaken(tree: ModuleTree, members: list[int]) -> dict[int, set[int]]:
    """Return, for items whose path ends the path of an unrelated module, the tensors of that module."""
    roots = {tree.names[child] for child in tree.children(0)}
    roots |= {tree.tensor_names[tensor] for tensor in tree.own_tensors(0)}
    lookalikes: dict[str, list[int]] = {}
    mistaken: dict[int, set[int]] = {}
    for tensor in members:
        path = tree.tensor_paths[tensor]
        ends = [i for i, char in enumerate(path) if char == "."]
        for end in (*ends, len(path)):
            ancestor = path[:end]
            if ancestor not in lookalikes:
                lookalikes[ancestor] = _lookalikes(tree, ancestor, roots)
            for item in lookalikes[ancestor]:
                mistaken.setdefault(item, set()).add(tensor)
    return mistaken


def _lookalikes(tree: ModuleTree, path: str, roots: set[str]) -> list[int]:
    """Return the items whose path is a proper ending of this one."""
    found = []
    for start in range(1, len(path)):
        rest = path[start:]
        if rest.partition(".")[0] in roots and (item := item_at(tree, rest)) is not None:
            found.append(item)
    return found

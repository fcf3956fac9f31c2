"""Which unit each tensor belongs to: the deepest one that contains it, the later among equals."""

from __future__ import annotations

from collections.abc import Sequence

from .plan import Unit
from .tree import ModuleTree


def unit_of_tensors(tree: ModuleTree, units: Sequence[Unit]) -> list[int]:
    """Return, for every tensor of the tree, the index of its unit; -1 where no unit covers it.

    Units whose path names nothing in the tree cover nothing. Wildcards must be bound before.
    """
    last = {unit.path: index for index, unit in enumerate(units)}
    spans = [(tree.covered(path), index) for path, index in last.items()]
    spans.sort(key=lambda item: (-len(item[0]), units[item[1]].path.count("."), item[1]))
    owner = [-1] * len(tree.tensor_names)
    for tensors, index in spans:
        if len(tensors) == 1:
            owner[tensors.start] = index
        else:
            owner[tensors.start : tensors.stop] = [index] * len(tensors)
    return owner

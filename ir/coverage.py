"""What lines name in a tree: the unit of each tensor, and the modules a rule makes whole."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .patterns import match_paths
from .plan import Atomic, Constraint, Unit
from .tree import ModuleTree


def unit_of_tensors(tree: ModuleTree, units: Sequence[Unit]) -> list[int]:
    """Return, for every tensor of the tree, the index of its unit; -1 where no unit covers it.

    The deepest unit that contains a tensor wins, the later among equals.

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


def atomic_modules(tree: ModuleTree, rules: Iterable[Constraint]) -> list[int]:
    """Return the modules that `atomic` rules make whole, in tree order; other rules say nothing here.

    A class never makes the root whole: a list of classes is about a model's parts. Its path ``""`` does.
    """
    atomic = [rule for rule in rules if isinstance(rule, Atomic)]
    classes = {rule.target for rule in atomic if rule.by_class}
    found = {i for i, name in enumerate(tree.classes) if i and name in classes} if classes else set[int]()
    for rule in atomic:
        if not rule.by_class:
            paths = match_paths(tree, rule.target)
            found.update(tree.module_index[path] for path in paths if path in tree.module_index)
    return sorted(found)

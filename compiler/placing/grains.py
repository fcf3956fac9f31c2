"""Grains: the smallest units a plan may have, in execution order.

A grain is a module that may not be opened, a leaf, or one tensor of an opened module. Grains are
what the search moves, what is streamed at a time, and what a merged unit is made of.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ...ir import ModuleTree, Plan, Split
from ...ir.patterns import match_paths


class Grain(NamedTuple):
    """A module or tensor path with the tensors it covers."""

    path: str
    start: int
    stop: int


def opened_modules(plan: Plan, tree: ModuleTree) -> set[int]:
    """Return the modules that must not become one unit: split ones and what contains a pin."""
    found: set[int] = set()
    for constraint in plan.constraints:
        if isinstance(constraint, Split):
            found |= _modules(tree, constraint.pattern)
    for module in list(found):
        found |= ancestors(tree, module)
    for unit in plan.units:
        if is_pin(unit.reason):
            found |= _containers(tree, unit.path)
    return found


def is_pin(reason: str | None) -> bool:
    """Say whether a unit with this reason was written by somebody and may not be moved."""
    return reason == "written"


def layer_modules(tree: ModuleTree) -> set[int]:
    """Return the children of lists of modules: what people call layers, kept whole where possible."""
    lists = {i for i, name in enumerate(tree.classes) if name in {"ModuleList", "Sequential", "ModuleDict"}}
    return {i for i, parent in enumerate(tree.parents) if parent in lists}


def walk_grains(tree: ModuleTree, closed: set[int], opened: set[int]) -> Iterator[Grain]:
    """Yield the grains in tree order; ``closed`` modules stay whole unless they are ``opened``."""
    module, count = 0, len(tree)
    while module < count:
        end, tensors = tree.ends[module], tree.tensors(module)
        leaf = end == module + 1
        if not tensors:
            module = end
        elif module in opened or not (leaf or module in closed):
            for index in tree.own_tensors(module):
                yield Grain(tree.tensor_paths[index], index, index + 1)
            module += 1
        else:
            yield Grain(tree.paths[module], tensors.start, tensors.stop)
            module = end


def stream_bytes(tree: ModuleTree, grain: Grain) -> int:
    """Return the bytes a grain takes when it is streamed: its shared storages too, each once."""
    sizes = tree.nbytes or ()
    if grain.stop == grain.start + 1:
        return sizes[tree.storages[grain.start]]
    storages = set(tree.storages[grain.start : grain.stop])
    return sum(sizes[index] for index in storages)


def _modules(tree: ModuleTree, pattern: str) -> set[int]:
    matched: Iterable[str] = match_paths(tree, pattern)
    return {tree.module_index[path] for path in matched if path in tree.module_index}


def ancestors(tree: ModuleTree, module: int) -> set[int]:
    """Return the modules above one."""
    found = set[int]()
    while (module := tree.parents[module]) >= 0:
        found.add(module)
    return found


def _containers(tree: ModuleTree, path: str) -> set[int]:
    module = tree.module_index.get(path)
    if module is not None:
        return ancestors(tree, module)
    tensor = tree.tensor_index.get(path)
    if tensor is None:
        return set()
    return {tree.owners[tensor], *ancestors(tree, tree.owners[tensor])}

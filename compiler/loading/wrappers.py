"""A model as its plan knows it: without what torch.compile, PEFT or data parallelism wrapped around it.

Wrapping renames tensors and adds some; it changes neither what a checkpoint calls them nor where a
plan puts them. What a wrapper added (an adapter) follows the module it was added to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

from ...ir import ModuleTree, is_within, join_path

_ROOTS: Final = ("base_model.model", "_orig_mod", "module")
_WRAPPED: Final = frozenset({"_orig_mod", "base_layer", "original_module"})


@dataclass(frozen=True, slots=True)
class Plain:
    """A tree without wrappers, and how its parts are called on the live model."""

    tree: ModuleTree
    tensors: tuple[str, ...]
    """Live path of each tensor of the tree."""
    modules: tuple[str, ...]
    """Live path of each module of the tree: the outermost wrapper of it."""
    adapters: tuple[tuple[str, str], ...] = ()
    """Live path of each tensor a wrapper added, with the plain path of the module it was added to."""


@dataclass(slots=True)
class _Node:
    name: str
    live: str
    cls: str
    tensors: list[int] = field(default_factory=list[int])
    children: list[_Node] = field(default_factory=list["_Node"])


def wrapper_root(tree: ModuleTree) -> str:
    """Return the path below which the whole wrapped model is; empty when the root is the model."""
    root = ""
    while True:
        inner = next((p for p in (join_path(root, name) for name in _ROOTS) if p in tree.module_index), None)
        if inner is None or not all(is_within(path, inner) for path in tree.tensor_paths):
            return root
        root = inner


def unwrapped(tree: ModuleTree) -> Plain:
    """Return the tree as it was before wrapping, with the way back to the live names."""
    root = wrapper_root(tree)
    if not root and _WRAPPED.isdisjoint(tree.names):
        return Plain(tree, tree.tensor_paths, tree.paths)
    start = tree.module_index[root]
    adapters: list[tuple[str, str]] = []
    top = _Node("", root, tree.classes[start])
    _absorb(tree, start, top, "", adapters)
    return _flattened(tree, top, adapters)


def _absorb(tree: ModuleTree, module: int, node: _Node, path: str, adapters: list[tuple[str, str]]) -> None:
    """Put a live module's tensors and children into a node, seeing through wrappers below it."""
    children = tree.children(module)
    wrapped = next((child for child in children if tree.names[child] in _WRAPPED), None)
    if wrapped is not None:
        first, last = tree.tensors(module).start, tree.tensors(module).stop
        inside = tree.tensors(wrapped)
        adapters += [(tree.tensor_paths[i], path) for i in range(first, last) if i not in inside]
        node.cls = tree.classes[wrapped]
        _absorb(tree, wrapped, node, path, adapters)
        return
    node.tensors += tree.own_tensors(module)
    for child in children:
        name = tree.names[child]
        below = _Node(name, tree.paths[child], tree.classes[child])
        node.children.append(below)
        _absorb(tree, child, below, join_path(path, name), adapters)


def _preorder(node: _Node, parent: int, count: list[int]) -> Iterator[tuple[_Node, int, int]]:
    index = count[0]
    count[0] += 1
    yield node, parent, index
    for child in node.children:
        yield from _preorder(child, index, count)


def _flattened(tree: ModuleTree, top: _Node, adapters: list[tuple[str, str]]) -> Plain:
    rows = list(_preorder(top, -1, [0]))
    ends = [index + 1 for _, _, index in rows]
    for _, parent, index in reversed(rows):
        if parent >= 0:
            ends[parent] = max(ends[parent], ends[index])
    kept = [i for node, _, _ in rows for i in node.tensors]
    first: dict[int, int] = {}
    storages = tuple(first.setdefault(tree.storages[i], new) for new, i in enumerate(kept))
    same: dict[int, int] = {}
    objects = tree.objects and tuple(same.setdefault(tree.objects[i], new) for new, i in enumerate(kept))
    plain = ModuleTree(
        names=tuple(node.name for node, _, _ in rows),
        classes=tuple(node.cls for node, _, _ in rows),
        parents=tuple(parent for _, parent, _ in rows),
        ends=tuple(ends),
        first_tensors=tuple(accumulate((len(node.tensors) for node, _, _ in rows), initial=0)),
        tensor_names=tuple(tree.tensor_names[i] for i in kept),
        shapes=tuple(tree.shapes[i] for i in kept),
        dtypes=tuple(tree.dtypes[i] for i in kept),
        roles=tuple(tree.roles[i] for i in kept),
        storages=storages,
        objects=objects,
    )
    live = tuple(tree.tensor_paths[i] for i in kept)
    return Plain(plain, live, tuple(node.live for node, _, _ in rows), tuple(adapters))

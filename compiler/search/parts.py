"""Grains below what stays whole: parts that may be visited, and what is left of their module.

A layer is never cut, but what it calls may be elsewhere, because its results come back. Its attention and
its experts are then grains of their own; the rest of the layer, norms and small things, is its home.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from ...ir import ModuleTree, Plan, never_visited
from ..placing.grains import Grain, walk_grains

LISTS: Final = frozenset({"ModuleList", "ModuleDict", "ParameterList", "ParameterDict"})
"""Classes nothing calls: what is in them is entered, not they."""
LEAST: Final = 0.02
"""What is a smaller share of its layer stays at the layer's home: two hops would cost more."""
MOST: Final = 0.5
"""A part that holds this share of what it is in is the part to move."""


class Parted(NamedTuple):
    """The grains of a plan whose layers are open, and which of them are at home together."""

    grains: tuple[Grain, ...]
    homes: tuple[tuple[int, ...], ...]


def walk_parts(plan: Plan, tree: ModuleTree, closed: set[int], opened: set[int]) -> Parted:
    """Return the grains of a plan, what may be visited apart from what it is visited from."""
    banned = never_visited(tree, plan.constraints)
    grains, homes = list[Grain](), list[tuple[int, ...]]()
    for grain in walk_grains(tree, closed, opened):
        module = tree.module_index.get(grain.path)
        parts = [] if module is None or module not in closed else list(_parts(tree, module, banned))
        if sum(len(tree.tensors(part)) for part in parts) == grain.stop - grain.start:
            parts = parts[1:]  # something has to be where the module itself runs
        chunks = list(_chunks(tree, grain, parts)) if parts else [grain]
        home = [i for i, chunk in enumerate(chunks, len(grains)) if chunk.path == grain.path]
        if parts and home:
            homes.append(tuple(home))
            grains += chunks
        else:
            grains.append(grain)
    return Parted(tuple(grains), tuple(homes))


def _parts(tree: ModuleTree, module: int, banned: frozenset[int]) -> Iterator[int]:
    """Yield the modules inside one that may be visited from it and are worth it, in tree order."""
    whole = tree.subtree_bytes(module)
    for child in _called(tree, module, banned):
        if tree.subtree_bytes(child) >= LEAST * whole:
            yield from _heaviest(tree, child, banned)


def _heaviest(tree: ModuleTree, module: int, banned: frozenset[int]) -> Iterator[int]:
    """Yield a module, or what inside it holds most of it: the experts rather than what chooses them."""
    inner = [
        child
        for child in _called(tree, module, banned)
        if tree.subtree_bytes(child) >= MOST * tree.subtree_bytes(module)
    ]
    yield inner[0] if len(inner) == 1 else module


def _called(tree: ModuleTree, module: int, banned: frozenset[int]) -> Iterator[int]:
    """Yield the children that are entered by a call and are more than one tensor."""
    for child in tree.children(module):
        if child not in banned and tree.classes[child] not in LISTS and len(tree.tensors(child)) > 1:
            yield child


def _chunks(tree: ModuleTree, grain: Grain, parts: list[int]) -> Iterator[Grain]:
    """Yield the parts of a grain and, by the grain's own path, what lies between them."""
    at = grain.start
    for part in parts:
        tensors = tree.tensors(part)
        if at < tensors.start:
            yield Grain(grain.path, at, tensors.start)
        yield Grain(tree.paths[part], tensors.start, tensors.stop)
        at = tensors.stop
    if at < grain.stop:
        yield Grain(grain.path, at, grain.stop)

"""Grains below what stays whole: parts that may be visited, and what is left of their module.

A layer is never cut, but what it calls may be elsewhere, because its results come back. Its attention and
its experts are then grains of their own; the rest of the layer, norms and small things, is its home.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from ...ir import ModuleTree, Plan, never_visited
from ..placing.grains import Grain, walk_grains

LISTS: Final = frozenset({"ModuleList", "ModuleDict", "ParameterList", "ParameterDict", "Sequential"})
"""Classes that do nothing but hold what is called in turn: what is in them may be visited, each by itself."""
LEAST: Final = 0.02
"""What is a smaller share of the largest part stays at the layer's home: two hops would cost more."""
MOST: Final = 0.5
"""A part that holds this share of what it is in is the part to move; what holds it of the model is opened."""
FEW: Final = 16
"""Longer lists inside a layer stay together: they are many small things, experts each for itself."""


class Parted(NamedTuple):
    """The grains of a plan whose layers are open, and which of them are at home together."""

    grains: tuple[Grain, ...]
    homes: tuple[tuple[int, ...], ...]
    visited_from: dict[int, int]
    """By grain of a part, the first grain of its module's home."""


def walk_parts(plan: Plan, tree: ModuleTree, closed: set[int], opened: set[int]) -> Parted:
    """Return the grains of a plan, what may be visited apart from what it is visited from."""
    banned = never_visited(tree, plan.constraints)
    grains, homes, visited_from = list[Grain](), list[tuple[int, ...]](), dict[int, int]()
    for grain in walk_grains(tree, closed, opened):
        module = tree.module_index.get(grain.path)
        parts = [] if module is None or module not in closed else list(_parts(tree, module, banned))
        if sum(len(tree.tensors(part)) for part in parts) == grain.stop - grain.start:
            parts = parts[1:]  # something has to be where the module itself runs
        chunks = list(_chunks(tree, grain, parts)) if parts else [grain]
        home = [i for i, chunk in enumerate(chunks, len(grains)) if chunk.path == grain.path]
        if parts and home:
            homes.append(tuple(home))
            whole = range(len(grains), len(grains) + len(chunks))
            visited_from.update((each, home[0]) for each in whole if each not in home)
            grains += chunks
        else:
            grains.append(grain)
    return Parted(tuple(grains), tuple(homes), visited_from)


def _parts(tree: ModuleTree, module: int, banned: frozenset[int]) -> Iterator[int]:
    """Yield the modules inside one that may be visited from it and are worth it, in tree order."""
    called = list(_called(tree, module, banned))
    largest = max(map(tree.subtree_bytes, called), default=0)
    for child in called:
        if _is_most(tree, child):
            yield from _parts(tree, child, banned)
        elif tree.subtree_bytes(child) >= LEAST * largest > 0:
            yield from _heaviest(tree, child, banned)


def _is_most(tree: ModuleTree, module: int) -> bool:
    """Say whether a module is most of the model: as one part it would be no better than the whole."""
    return 2 * tree.subtree_bytes(module) > tree.subtree_bytes(0) and tree.ends[module] > module + 1


def _heaviest(tree: ModuleTree, module: int, banned: frozenset[int]) -> Iterator[int]:
    """Yield a module, or what inside it holds most of it: the experts rather than what chooses them."""
    inner = [
        child
        for child in _called(tree, module, banned)
        if tree.subtree_bytes(child) >= MOST * tree.subtree_bytes(module) and len(tree.tensors(child)) > 1
    ]
    yield inner[0] if len(inner) == 1 else module


def _called(tree: ModuleTree, module: int, banned: frozenset[int]) -> Iterator[int]:
    """Yield what is entered by a call of its own inside a module, lists looked through."""
    for child in tree.children(module):
        if child in banned or not tree.tensors(child):
            continue
        if tree.classes[child] not in LISTS:
            yield child
        elif _is_most(tree, module) or len(tree.children(child)) <= FEW:
            yield from _called(tree, child, banned)


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

"""Visits: parts of a module that is never split, on other devices than the module.

Cutting a module is one thing, visiting a part of it another: what the part returns comes back to where
its module runs, so no operation of the module's own forward meets two devices. Only modules can be
visited, because only a call has arguments and results, and not those a `never ... on visiting` line
names.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from .names import is_within
from .patterns import match_paths
from .plan import VISITING, Constraint, Never, Unit
from .tree import ModuleTree

Place: TypeAlias = tuple[str | None, str | None]


class Part(NamedTuple):
    """A part of an atomic module that is elsewhere than what is around it."""

    path: str
    owner: int
    """Index of the unit that decides its place; -1 while nothing does."""
    legal: bool
    """Whether it can be visited."""


def homes_of(tree: ModuleTree, units: Sequence[Unit]) -> dict[int, int]:
    """Return for each visited unit of a bound plan the unit it is visited from, both by index.

    That is the nearest unit around it.
    """
    by_path = {unit.path: index for index, unit in enumerate(units)}
    found: dict[int, int] = {}
    for path, index in by_path.items():
        above = path
        while above and path in tree.module_index:
            above = above.rpartition(".")[0]
            if above in by_path:
                found[index] = by_path[above]
                break
    return found


def never_visited(tree: ModuleTree, rules: Iterable[Constraint]) -> frozenset[int]:
    """Return the modules that rules say cannot be visited."""
    named = [rule for rule in rules if isinstance(rule, Never) and rule.device == VISITING]
    paths = (path for rule in named for path in match_paths(tree, rule.pattern))
    return frozenset(tree.module_index[path] for path in paths if path in tree.module_index)


def home_of(
    tree: ModuleTree, module: int, owners: Sequence[int], units: Sequence[Unit], banned: Collection[int]
) -> int:
    """Return the index of the unit at whose place a module itself runs; -1 while nothing decides it.

    That is the unit around it. Where only parts of it have lines it is the unit of its own tensors, of what
    cannot be visited, or of most of its children, the first among equals.
    """
    inside, path = tree.tensors(module), tree.paths[module]
    here = dict.fromkeys(owners[inside.start : inside.stop])
    around = [owner for owner in here if owner >= 0 and is_within(path, units[owner].path)]
    if around or -1 in here:
        return max(around, key=lambda owner: units[owner].path.count("."), default=-1)
    if own := tree.own_tensors(module):
        return owners[own[0]]
    children = [child for child in tree.children(module) if tree.tensors(child)]
    firsts = [owners[tree.tensors(child)[0]] for child in children]
    kept = next((owner for child, owner in zip(children, firsts, strict=True) if child in banned), None)
    if kept is not None:
        return kept
    places = [_place(units, owner) for owner in firsts]
    return firsts[max(range(len(places)), key=lambda index: (places.count(places[index]), -index))]


def parts_apart(
    tree: ModuleTree, module: int, owners: Sequence[int], units: Sequence[Unit], banned: Collection[int]
) -> Iterator[Part]:
    """Yield what of an atomic module is elsewhere than the module, in tree order, outer parts first."""
    stack = [(module, home_of(tree, module, owners, units, banned))]
    while stack:
        item, home = stack.pop()
        if item < 0:
            if _place(units, owners[~item]) != _place(units, home):
                yield Part(tree.tensor_paths[~item], owners[~item], legal=False)
            continue
        inside = tree.tensors(item)
        here = {_place(units, owner) for owner in owners[inside.start : inside.stop]}
        own = home if item == module else home_of(tree, item, owners, units, banned)
        if item != module and here and _place(units, own) != _place(units, home):
            yield Part(tree.paths[item], own, legal=item not in banned)
            home = own
        if here != {_place(units, home)}:
            stack += [(child, home) for child in reversed(tree.children(item)) if tree.tensors(child)]
            stack += [(~tensor, home) for tensor in reversed(tree.own_tensors(item))]


def why_not(tree: ModuleTree, path: str) -> str:
    """Say why a part cannot be visited."""
    if path in tree.module_index:
        return "its weights are used past its call, or it works on what it is not handed"
    return "it is not a module, so nothing calls it"


def _place(units: Sequence[Unit], owner: int) -> Place:
    return (units[owner].store, units[owner].run) if owner >= 0 else (None, None)

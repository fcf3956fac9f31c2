"""The cut through the module tree on which placing works: whole modules and bare tensors.

An item is an integer: a module is its index, a bare tensor is the complement of its index, so the
hot loops of placing handle no strings. Items of one cut never overlap.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from enum import IntEnum
from itertools import accumulate, pairwise
from operator import eq
from typing import TypeAlias

from ...ir import Atomic, Constraint, ModuleTree, Plan, Reason, Split, Unit, atomic_modules
from ...ir.patterns import match_paths

Opener: TypeAlias = Callable[[int], list[int]]
"""A rewrite rule: what takes an item's place when it is opened; nothing if it may not be."""


def item_path(tree: ModuleTree, item: int) -> str:
    """Return the path of an item."""
    return tree.paths[item] if item >= 0 else tree.tensor_paths[~item]


def item_at(tree: ModuleTree, path: str) -> int | None:
    """Return the item a path names; None when the tree has neither such a module nor tensor."""
    module = tree.module_index.get(path)
    if module is not None:
        return module
    tensor = tree.tensor_index.get(path)
    return None if tensor is None else ~tensor


def item_tensors(tree: ModuleTree, item: int) -> range:
    """Return the tensors of an item."""
    return tree.tensors(item) if item >= 0 else range(~item, ~item + 1)


def item_bytes(tree: ModuleTree, item: int) -> int:
    """Return the bytes of an item, shared storage counted where it comes first."""
    tensors, before = item_tensors(tree, item), tree.prefix_bytes
    return before[tensors.stop] - before[tensors.start]


def opened(tree: ModuleTree, module: int) -> list[int]:
    """Return what takes a module's place when it is opened, in tree order."""
    own = tree.own_tensors(module)
    return [*(~tensor for tensor in own), *tree.children(module)]


def whole_modules(tree: ModuleTree, constraints: Iterable[Constraint]) -> bytearray:
    """Mark every module that may not be opened: leaves, atomic ones, and what is inside an atomic one."""
    whole = bytearray(map(eq, tree.ends, range(1, len(tree) + 1)))
    for module in atomic_modules(tree, constraints):
        whole[module : tree.ends[module]] = b"\1" * (tree.ends[module] - module)
    return whole


def openable(plan: Plan) -> Opener:
    """Return the rule that opens a unit while placing: modules that are neither leaves nor atomic."""
    tree = plan.tree
    if tree is None:
        return lambda _: []
    whole = whole_modules(tree, plan.constraints)
    return lambda item: [] if item < 0 or whole[item] else opened(tree, item)


def is_whole(constraints: Iterable[Constraint]) -> bool:
    """Say whether the model is one unit: a rule names the root by its path."""
    return any(isinstance(rule, Atomic) and not rule.by_class and not rule.target for rule in constraints)


def merge_units(
    tree: ModuleTree, units: Iterable[Unit], kept_open: frozenset[int] = frozenset()
) -> tuple[Unit, ...]:
    """Return the same placement in the fewest units: whole modules wherever a subtree is in one place.

    The units must be disjoint, placed, and cover every tensor; modules without tensors need no unit.
    What a person wrote is not merged with what was decided around it, and what is ``kept_open`` not at all.
    """
    owner = unit_of_each_tensor(tree, units)
    places = [
        (unit.store, unit.run, unit.reason is Reason.WRITTEN, unit.path if unit.by_rows else "")
        for unit in owner
    ]
    merged = largest_of_one(tree, places, kept_open)
    return tuple(replace(owner[first], path=item_path(tree, item)) for item, first in merged)


def largest_of_one(
    tree: ModuleTree, values: Sequence[object], kept_open: Collection[int] = frozenset()
) -> Iterator[tuple[int, int]]:
    """Yield the largest items whose tensors all have one value, with the first of those tensors."""
    changes = [0, *accumulate(here != before for before, here in pairwise(values))]
    stack = [0]
    while stack:
        item = stack.pop()
        tensors = item_tensors(tree, item)
        if not tensors:
            continue
        if item not in kept_open and changes[tensors[-1]] == changes[tensors[0]]:
            yield item, tensors[0]
        else:
            stack.extend(reversed(opened(tree, item)))


def split_modules(tree: ModuleTree, constraints: Iterable[Constraint]) -> frozenset[int]:
    """Return the modules that must not be one unit, and those around them except the whole model."""
    patterns = [rule.pattern for rule in constraints if isinstance(rule, Split)]
    paths = (path for pattern in patterns for path in match_paths(tree, pattern))
    found: set[int] = set()
    for path in paths:
        module = tree.module_index.get(path, 0)
        while module > 0 and module not in found:
            found.add(module)
            module = tree.parents[module]
    return frozenset(found)


def unit_of_each_tensor(tree: ModuleTree, units: Iterable[Unit]) -> list[Unit]:
    """Return the unit of each tensor, for disjoint units that cover them all."""
    covered: list[tuple[range, Unit]] = []
    for unit in units:
        item = item_at(tree, unit.path)
        if item is not None and (tensors := item_tensors(tree, item)):
            covered.append((tensors, unit))
    covered.sort(key=lambda pair: pair[0].start)
    owner = [unit for tensors, unit in covered for _ in tensors]
    if len(owner) != len(tree.tensor_names):
        raise ValueError("the units overlap or leave a tensor out")
    return owner


class State(IntEnum):
    """Where an item is on its way through the worklist."""

    WAITING = 1
    HELD = 2
    """Taken out, being decided."""
    REPLACED = 3
    """Its parts wait in its place."""
    DONE = 4


class Worklist:
    """Items in the order they are decided; any of them can be opened or taken out where it waits."""

    def __init__(self, tree: ModuleTree, items: Iterable[int], opener: Opener) -> None:
        self._tree, self._opener = tree, opener
        self._stack = list(reversed(list(items)))
        self.state: dict[int, State] = dict.fromkeys(self._stack, State.WAITING)

    def pop(self) -> int | None:
        """Take the next waiting item; None when nothing waits."""
        while self._stack:
            item = self._stack.pop()
            match self.state[item]:
                case State.WAITING:
                    self.state[item] = State.HELD
                    return item
                case State.REPLACED:
                    self.state[item] = State.DONE
                    self._stack += reversed(self._opener(item))
                case _:  # decided elsewhere in the meantime
                    continue
        return None

    def push(self, item: int) -> None:
        """Put an item in front."""
        self.state[item] = State.WAITING
        self._stack.append(item)

    def open(self, item: int) -> bool:
        """Put the parts of an item where it waits, or in front if it is held; say whether it has any."""
        parts = self._opener(item)
        if not parts:
            return False
        if self.state[item] is State.HELD:
            self.state[item] = State.DONE
            self._stack += reversed(parts)
        else:
            self.state[item] = State.REPLACED
        self.state.update(dict.fromkeys(parts, State.WAITING))
        return True

    def done(self, item: int) -> None:
        """Say that an item is decided."""
        self.state[item] = State.DONE

    def open_above(self, item: int) -> None:
        """Open what waits above an item until the item itself waits."""
        module = self._tree.parents[item] if item >= 0 else self._tree.owners[~item]
        above = []
        while module > 0:
            above.append(module)
            module = self._tree.parents[module]
        for module in reversed(above):
            if self.state.get(module) is State.WAITING:
                self.open(module)

    def copy(self) -> Worklist:
        """Return a worklist to try things on."""
        twin = Worklist(self._tree, (), self._opener)
        twin._stack, twin.state = list(self._stack), dict(self.state)
        return twin

    def holder(self, tensor: int) -> int | None:
        """Return the waiting item that contains a tensor."""
        if self.state.get(~tensor) is State.WAITING:
            return ~tensor
        module = self._tree.owners[tensor]
        while module > 0:
            if self.state.get(module) is State.WAITING:
                return module
            module = self._tree.parents[module]
        return None

    def waiting(self) -> Iterator[int]:
        """Yield what waits, in order."""
        stack = list(self._stack)
        seen: set[int] = set()
        while stack:
            item = stack.pop()
            state = self.state[item]
            if state is State.REPLACED:
                stack += reversed(self._opener(item))
            elif state is State.WAITING and item not in seen:
                seen.add(item)
                yield item

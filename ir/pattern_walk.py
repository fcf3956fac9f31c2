"""Wildcards over a tree: only names that can matter are visited, so many patterns stay cheap.

A pattern is a set of positions that moves on with each name of a path. Below a module where only ``**``
waits, nothing happens until a name comes that one of the next positions takes: the index of names leads
straight there, and what lies between is never looked at.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from heapq import merge
from typing import Final, TypeAlias

from .tree import ModuleTree

_ANY: Final = "**"
States: TypeAlias = frozenset[int]


class Machine:
    """The positions of one pattern, and where each name leads."""

    def __init__(self, pattern: str) -> None:
        names = pattern.split(".")
        self._names = [*names[:-1], "*", _ANY] if names[-1] == _ANY else names
        self._tests = [_name_test(name) for name in self._names]
        self._steps: dict[tuple[States, str], States] = {}
        self.last = len(self._names)
        self.start = self._close({0})

    def _close(self, states: set[int]) -> States:
        closed = set(states)
        for state in states:
            at = state
            while at < self.last and self._names[at] == _ANY:
                at += 1
                closed.add(at)
        return frozenset(closed)

    def step(self, states: States, name: str) -> States:
        """Return the positions after one more name."""
        known = self._steps.get((states, name))
        if known is not None:
            return known
        after: set[int] = set()
        for state in states - {self.last}:
            if self._names[state] == _ANY:
                after.add(state)
            elif self._tests[state].fullmatch(name) is not None:
                after.add(state + 1)
        return self._steps.setdefault((states, name), self._close(after))

    def waits(self, states: States) -> bool:
        """Say whether a name that nothing takes leaves everything as it is."""
        stay = self._close({state for state in states - {self.last} if self._names[state] == _ANY})
        return bool(stay) and stay == states and self.last not in states

    def taken(self, states: States, names: dict[str, list[int]]) -> Iterator[str]:
        """Yield the names that lead on from these positions."""
        texts = [self._names[state] for state in states if self._names[state] != _ANY]
        if not any("*" in text for text in texts):
            yield from (text for text in dict.fromkeys(texts) if text in names)
            return
        tests = [self._tests[state].fullmatch for state in states if self._names[state] != _ANY]
        yield from (name for name in names if any(test(name) for test in tests))


@lru_cache(maxsize=64)
def machine_of(pattern: str) -> Machine:
    """Return the machine of a pattern."""
    return Machine(pattern)


def _name_test(name: str) -> re.Pattern[str]:
    """Compile one name; atomic groups keep many stars from backtracking against each other."""
    first, *rest = (re.escape(part) for part in re.split(r"\*+", name))
    if not rest:
        return re.compile(first, re.DOTALL)
    middle = "".join(f"(?>.*?{part})" for part in rest[:-1])
    return re.compile(f"{first}{middle}.*{rest[-1]}", re.DOTALL)


def matching_paths(tree: ModuleTree, machine: Machine) -> list[str]:
    """Return the paths of the modules and tensors a pattern names, in tree order."""
    found = _Walk(tree, machine)
    found.run()
    order = sorted(found.tensors, key=lambda tensor: (tree.owners[tensor], tensor))
    rows = merge(
        ((module, -1) for module in sorted(found.modules)), ((tree.owners[each], each) for each in order)
    )
    return [tree.paths[module] if tensor < 0 else tree.tensor_paths[tensor] for module, tensor in rows]


@dataclass(slots=True)
class _Walk:
    tree: ModuleTree
    machine: Machine
    modules: list[int] = field(default_factory=list)
    tensors: list[int] = field(default_factory=list)
    _open: list[tuple[int, States]] = field(default_factory=list)
    """Modules to go on from, with the positions behind their names."""
    _led: dict[States, tuple[list[int], list[int]]] = field(default_factory=dict)
    """For waiting positions, the modules and tensors whose names lead on."""

    def run(self) -> None:
        self._open.append((0, self.machine.start))
        while self._open:
            module, states = self._open.pop()
            if self.machine.waits(states):
                self._jump(module, states)
            elif states - {self.machine.last}:
                self._look(module, states)

    def _look(self, module: int, states: States) -> None:
        tree = self.tree
        self._take(tree.own_tensors(module), states)
        for child in tree.children(module):
            self._enter(child, states)

    def _jump(self, module: int, states: States) -> None:
        """Go to the next names that lead on; what lies between has the same positions and no match."""
        tree, at, end = self.tree, module, self.tree.ends[module]
        modules, tensors = self._leading(states)
        start = bisect_left(modules, module + 1)
        for index in range(start, bisect_left(modules, end)):
            if modules[index] < at:
                continue  # inside a module that was entered
            self._take(_between(tensors, tree.first_tensors[at], tree.first_tensors[modules[index]]), states)
            self._enter(modules[index], states)
            at = tree.ends[modules[index]]
        self._take(_between(tensors, tree.first_tensors[at], tree.first_tensors[end]), states)

    def _leading(self, states: States) -> tuple[list[int], list[int]]:
        if states not in self._led:
            modules, tensors = (
                sorted(row for name in self.machine.taken(states, names) for row in names[name])
                for names in (self.tree.modules_by_name, self.tree.tensors_by_name)
            )
            self._led[states] = modules, tensors
        return self._led[states]

    def _enter(self, module: int, states: States) -> None:
        after = self.machine.step(states, self.tree.names[module])
        if self.machine.last in after:
            self.modules.append(module)
        if after - {self.machine.last}:
            self._open.append((module, after))

    def _take(self, tensors: range | list[int], states: States) -> None:
        names, last, step = self.tree.tensor_names, self.machine.last, self.machine.step
        self.tensors += [tensor for tensor in tensors if last in step(states, names[tensor])]


def _between(rows: list[int], start: int, end: int) -> list[int]:
    return rows[bisect_left(rows, start) : bisect_left(rows, end)]

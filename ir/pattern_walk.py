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
        self._resting: dict[States, States] = {}
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

    def resting(self, states: States) -> States:
        """Return the positions after a name that nothing takes: of every ``**``, and what it may end."""
        known = self._resting.get(states)
        if known is None:
            waiting = {state for state in states - {self.last} if self._names[state] == _ANY}
            known = self._resting.setdefault(states, self._close(waiting))
        return known

    def taken(self, states: States, names: dict[str, list[int]]) -> Iterator[str]:
        """Yield the names that lead on from these positions."""
        taking = [state for state in states - {self.last} if self._names[state] != _ANY]
        texts = [self._names[state] for state in taking]
        if not any("*" in text for text in texts):
            yield from (text for text in dict.fromkeys(texts) if text in names)
            return
        tests = [self._tests[state].fullmatch for state in taking]
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
    _open: list[tuple[int, int, States]] = field(default_factory=list)
    """Siblings with all below them, by first and last row, and the positions behind their parent's name."""
    _entered: list[tuple[int, States]] = field(default_factory=list)
    """Modules whose names have been read, and the positions behind them."""
    _led: dict[States, tuple[list[int], list[int]]] = field(default_factory=dict)
    """For resting positions, the modules and tensors whose names lead on."""

    def run(self) -> None:
        self._entered.append((0, self.machine.start))
        while self._entered or self._open:
            while self._entered:
                self._go_on(*self._entered.pop())
            if self._open:
                self._jump(*self._open.pop())

    def _go_on(self, module: int, states: States) -> None:
        """Look below a module whose name has been read."""
        tree, resting = self.tree, self.machine.resting(states)
        if resting == states and self.machine.last not in states:
            self._take(self._rows(states, tree.own_tensors(module)), states)
            self._open.append((module + 1, tree.ends[module], states))
            return
        self._take(tree.own_tensors(module), states)
        if not resting or self.machine.last in resting:
            for child in tree.children(module):
                self._enter(child, states)
        else:
            self._part(module, states, resting)

    def _part(self, module: int, states: States, resting: States) -> None:
        """Enter the children whose names lead on; the stretches between them rest."""
        tree, at = self.tree, module + 1
        modules, _ = self._leading(states)
        for index in range(bisect_left(modules, at), bisect_left(modules, tree.ends[module])):
            child = modules[index]
            if tree.parents[child] == module:
                self._open.append((at, child, resting))
                self._enter(child, states)
                at = tree.ends[child]
        self._open.append((at, tree.ends[module], resting))

    def _jump(self, start: int, end: int, states: States) -> None:
        """Go to the next names that lead on; what lies between has the same positions and no match."""
        tree, at = self.tree, start
        modules, tensors = self._leading(states)
        for index in range(bisect_left(modules, start), bisect_left(modules, end)):
            if modules[index] < at:
                continue  # inside a module that was entered
            self._take(_between(tensors, tree.first_tensors[at], tree.first_tensors[modules[index]]), states)
            self._enter(modules[index], states)
            at = tree.ends[modules[index]]
        self._take(_between(tensors, tree.first_tensors[at], tree.first_tensors[end]), states)

    def _rows(self, states: States, own: range) -> list[int]:
        return _between(self._leading(states)[1], own.start, own.stop)

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
            self._entered.append((module, after))

    def _take(self, tensors: range | list[int], states: States) -> None:
        names, last, step = self.tree.tensor_names, self.machine.last, self.machine.step
        self.tensors += [tensor for tensor in tensors if last in step(states, names[tensor])]


def _between(rows: list[int], start: int, end: int) -> list[int]:
    return rows[bisect_left(rows, start) : bisect_left(rows, end)]

"""Which modules cannot be visited: what a trace knows of their calls.

A visited module is handed copies of its arguments where it runs, and its results come back. So it must
use nothing else and be used by nothing else: its weights only while it is called, no tensor from outside
but its arguments, no tensor of it outside but its results, no write into what it was handed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ...ir import VISITING, ModuleTree, Never
from ...ir.patterns import match_paths
from .cuts import Cuts
from .trace import Enter, Leave, Op, Origin, Trace
from .writes import Write


def visit_rules(trace: Trace, cuts: Cuts) -> Iterator[Never]:
    """Yield rules for what cannot be visited inside modules that stay whole, in tree order.

    Equal layers are told once: numbers in a path become wildcards where that names nothing else.
    """
    tree, tops = trace.tree, cuts.tops()
    inside = {m for m in Unvisitable(trace).modules() if 0 <= tops[m] < m and tree.tensors(m)}
    told: set[str] = set()
    for module in sorted(inside):
        path = tree.paths[module]
        if path not in told:
            pattern, named = _widest(tree, path, inside)
            told |= named
            yield Never(pattern, VISITING)


def _widest(tree: ModuleTree, path: str, modules: set[int]) -> tuple[str, set[str]]:
    pattern = ".".join("*" if re.fullmatch(r"\d+", part) else part for part in path.split("."))
    named = set(match_paths(tree, pattern)) if pattern != path else {path}
    if all(tree.module_index.get(each, -1) in modules for each in named):
        return pattern, named
    return path, {path}


class Unvisitable:
    """Follows a forward and notes the modules that use or are used past their calls."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.found: set[int] = set()
        self._results = {
            step.call: frozenset(step.results) for step in trace.steps if isinstance(step, Leave)
        }
        self._modules = [self._running(number) for number in range(len(trace.calls))]

    def modules(self) -> set[int]:
        """Return the modules that cannot be visited."""
        for step in self.trace.steps:
            match step:
                case Op():
                    asked = () if step.reference is None or step.reference < 0 else (step.reference,)
                    self._uses(step.call, (*step.inputs, *step.loose, *asked))
                    if isinstance(step, Write):
                        self._writes(step)
                case Enter():
                    self._passes_by(step.call)
                    self._uses(self.trace.calls[step.call].parent, [outer for outer, _ in step.arguments])
                case Leave():
                    pass
        tree, open_ = self.trace.tree, self.trace.kinds.open
        for module in range(len(tree) - 1, 0, -1):  # lists are entered through what is in them
            if module in self.found and tree.parents[module] in open_:
                self.found.add(tree.parents[module])
        return self.found

    def _passes_by(self, call: int) -> None:
        """Note the modules around a called one that it is not called by: their parts are called past them."""
        tree, running = self.trace.tree, self._modules[call]
        module = tree.parents[self.trace.calls[call].module]
        while module >= 0 and module not in running:
            if module not in self.trace.kinds.open:
                self.found.add(module)
            module = tree.parents[module]

    def _running(self, call: int) -> frozenset[int]:
        found = set[int]()
        while call >= 0:
            found.add(self.trace.calls[call].module)
            call = self.trace.calls[call].parent
        return frozenset(found)

    def _uses(self, call: int, values: Sequence[int]) -> None:
        trace = self.trace
        for value in values:
            item = trace.values[value]
            if item.origin is Origin.WEIGHT:
                self._weight(call, item.tensors)
            elif item.origin is Origin.CONSTANT:
                if item.beside:
                    self._weight(call, item.beside)
                if item.reference >= 0:
                    self._uses(call, (item.reference,))
            else:
                self._value(call, value)

    def _weight(self, call: int, tensors: Sequence[int]) -> None:
        """Note who reads a weight from outside, and whose weight is read from outside."""
        tree, running = self.trace.tree, self._modules[call] if call >= 0 else frozenset[int]()
        owners = {tree.owners[tensor] for tensor in tensors}
        if any(owner in running for owner in owners):
            owners = {owner for owner in owners if owner in running}
        for owner in owners:
            module = owner
            while module >= 0 and module not in running:
                if module == owner or module not in self.trace.kinds.open:  # lists of parameters are read
                    self.found.add(module)
                module = tree.parents[module]
        for reader in running:
            if not any(reader <= owner < tree.ends[reader] for owner in owners):
                self.found.add(reader)

    def _value(self, call: int, value: int) -> None:
        """Note the calls that a tensor came into past the arguments, or left past the results."""
        calls, item = self.trace.calls, self.trace.values[value]
        user = call
        while user >= 0 and calls[user].first > item.born:
            self.found.add(calls[user].module)
            user = calls[user].parent
        maker = self._maker(value)
        while maker >= 0 and maker != user and not self._is_above(maker, user):
            if value not in self._results.get(maker, ()):
                self.found.add(calls[maker].module)
            maker = calls[maker].parent

    def _maker(self, value: int) -> int:
        item = self.trace.values[value]
        step = self.trace.steps[item.step] if item.step >= 0 else None
        return step.call if step is not None else -1

    def _is_above(self, call: int, other: int) -> bool:
        return call <= other and self.trace.calls[other].first <= self.trace.calls[call].last

    def _writes(self, step: Write) -> None:
        for value in step.written:
            root = self.trace.values[self.trace.roots[value]]
            call = step.call if root.origin is not Origin.WEIGHT else -1  # buffers live with their module
            while call >= 0 and self.trace.calls[call].first > root.born:
                self.found.add(self.trace.calls[call].module)
                call = self.trace.calls[call].parent

"""What copies take beside the originals: arguments and results that cross into and out of a call.

A unit takes copies of its arguments where it runs, and a visited part in it takes copies of those. A
device that a forward comes back to further inside holds the original and a copy of the copy.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from .trace import Enter, Leave, Origin, Trace


def entered(trace: Trace, module: int) -> int | None:
    """Return the smallest module with tensors whose unit would move the arguments of a call."""
    tree = trace.tree
    if len(tree.tensors(module)):
        return module
    parent = tree.parents[module]
    return parent if parent in trace.kinds.open and len(tree.tensors(parent)) else None


def copies_beside(trace: Trace, tops: Sequence[int], counted: Collection[int]) -> list[int]:
    """Return for each step by how much the copies on one device may exceed the originals.

    ``counted`` are the first values of the storages that count by themselves; ``tops`` the outermost whole
    module of each: units nest only inside such.
    """
    extra = _Crossing(trace, tops, counted).of_steps()
    for value, more, first in _brought_back(trace, tops, counted):
        for step in range(first, min(trace.values[value].died + 1, len(extra))):
            extra[step] += more
    return extra


class _Crossing:
    """Follows a forward and keeps, for each storage, what copies of it the running calls may have made."""

    def __init__(self, trace: Trace, tops: Sequence[int], counted: Collection[int]) -> None:
        self.trace = trace
        self.tops = tops
        self.counted = counted
        self.copies: dict[int, list[int]] = {}
        """By storage: bytes of its copies from the outermost call to the innermost."""
        self.total = 0

    def of_steps(self) -> list[int]:
        """Return the excess at each step."""
        found, undo = list[int](), list[tuple[dict[int, list[int]], int]]()
        for step in self.trace.steps:
            if isinstance(step, Enter):
                undo.append((self.copies, self.total))
                self._enter(step)
            found.append(self.total)
            if isinstance(step, Leave):
                self.copies, self.total = undo.pop()
        return found

    def _enter(self, step: Enter) -> None:
        module = self.trace.calls[step.call].module
        if step.call == 0 or entered(self.trace, module) is None:
            return
        visited = _may_be_visited(self.trace, self.tops, module)
        taken = _by_storage(self.trace, (outer for outer, _ in step.arguments))
        self.copies = dict(self.copies)
        for root, nbytes in taken.items():
            before = self.copies.get(root, [])
            after = [*before, nbytes] if visited or not before else [max(before[0], nbytes), *before[1:]]
            self.copies[root] = after
            own = self.trace.values[root].nbytes if root in self.counted else 0
            self.total += _beyond(own, after) - _beyond(own, before)


def _beyond(own: int, copies: Sequence[int]) -> int:
    """Return by how much what one device may hold of a chain of copies exceeds the original.

    Each is a copy of the one before on another device, so no two neighbours are on one.
    """
    with_last, without = own, 0
    for nbytes in copies:
        with_last, without = without + nbytes, max(with_last, without)
    return max(0, max(with_last, without) - own)


def _by_storage(trace: Trace, values: Iterable[int]) -> Mapping[int, int]:
    found: dict[int, int] = {}
    for value in dict.fromkeys(values):
        root = trace.roots[value]
        found[root] = found.get(root, 0) + trace.values[value].own_nbytes
    return found


def _brought_back(
    trace: Trace, tops: Sequence[int], counted: Collection[int]
) -> Iterator[tuple[int, int, int]]:
    """Yield results whose copies take more than the storage they are views of: value, bytes, first step.

    What a part hands through unchanged comes back as another copy of what its caller has.
    """
    for number, step in enumerate(trace.steps):
        if not isinstance(step, Leave) or not _may_be_visited(trace, tops, trace.calls[step.call].module):
            continue
        entry = trace.calls[step.call].first
        made = [v for v in dict.fromkeys(step.results) if trace.values[v].origin is not Origin.WEIGHT]
        for root, nbytes in _by_storage(trace, made).items():
            own = trace.values[root]
            more = nbytes - (own.nbytes if root in counted and own.born > entry else 0)
            last = max((v for v in made if trace.roots[v] == root), key=lambda v: trace.values[v].died)
            if more > 0:
                yield last, more, number


def _may_be_visited(trace: Trace, tops: Sequence[int], module: int) -> bool:
    return 0 <= tops[module] != module and entered(trace, module) is not None

"""Writes into a copy of an argument: the original that others read later does not get them.

A module that is called where its arguments move gets copies of them. Writing into one (`out.add_(x)`)
is then lost for the caller, and silently: no op meets two devices.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from .peaks import placed_roots
from .replay import Labels
from .trace import Enter, Leave, Op, Origin, Trace


@dataclass(frozen=True, slots=True)
class Write(Op):
    """An operation that changes values in place."""

    written: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Lost:
    """A write that a later reader of the same tensor on another device does not see."""

    step: int
    """The write."""
    moved: int
    """The step that made the copy."""
    origin: int
    copy: int
    """The value that was copied, and its copy."""

    def separator(self, trace: Trace) -> int:
        """Return the module in whose forward the copy was made."""
        step = trace.steps[self.moved]
        call = trace.calls[step.call].parent if isinstance(step, Enter) else step.call
        return trace.calls[call].module if call >= 0 else 0


def lost_writes(trace: Trace, labels: Labels) -> Iterator[Lost]:
    """Yield what is read after it was written on another device, one for each write and copy."""
    if not any(isinstance(step, Write) for step in trace.steps) or not labels.hops:
        return
    yield from dict.fromkeys(_Versions(trace, placed_roots(trace, labels)).lost())


class _Versions:
    """How many writes each copy of a storage has seen."""

    def __init__(self, trace: Trace, physical: Sequence[int]) -> None:
        self.trace = trace
        self.physical = physical
        self._written: dict[int, tuple[int, int]] = {}
        """By the first value of a storage: how often it was written, and the step that did it last."""
        self._seen: dict[int, int] = {}
        self._copies: dict[int, tuple[int, int, int]] = {}
        """By copy: the step that made it, of which value, and its own value."""
        self._writer: dict[int, int] = {}
        """By the first value of a storage: the copy that was written last."""

    def lost(self) -> Iterator[Lost]:
        """Follow the forward and yield every read of a copy that missed a write."""
        for index, step in enumerate(self.trace.steps):
            match step:
                case Enter():
                    for outer, inner in step.arguments:
                        self._copy(index, outer, inner)
                case Op():
                    yield from self._op(index, step)
                case Leave():
                    if self.trace.calls[step.call].parent < 0:
                        yield from self._reads(step.results)
        yield from self._reads(self.trace.cache)
        yield from self._reads(v for v, item in enumerate(self.trace.values) if item.origin is Origin.WEIGHT)

    def _op(self, index: int, step: Op) -> Iterator[Lost]:
        if not self._is_view(step):
            yield from self._reads((*step.inputs, *step.loose))
        if step.name == "to":
            for source, made in zip(step.inputs, step.outputs, strict=True):
                self._copy(index, source, made)
        if isinstance(step, Write):
            self._write(index, step)

    def _copy(self, index: int, outer: int, inner: int) -> None:
        source, copy = self.physical[outer], self.physical[inner]
        if source != copy:
            self._seen[copy] = self._seen.get(source, 0)
            self._copies[copy] = index, outer, inner

    def _write(self, index: int, step: Write) -> None:
        for value in step.written:
            root = self.trace.roots[value]
            times = self._written.get(root, (0, 0))[0] + 1
            self._written[root] = times, index
            self._writer[root] = self.physical[value]
            self._seen[self.physical[value]] = times

    def _reads(self, values: Iterable[int]) -> Iterator[Lost]:
        for value in values:
            root, here = self.trace.roots[value], self.physical[value]
            times, step = self._written.get(root, (0, 0))
            if self._seen.get(here, 0) < times:
                copy = self._copies.get(self._writer[root]) or self._copies.get(here)
                if copy is not None:
                    yield Lost(step, *copy)

    def _is_view(self, step: Op) -> bool:
        """Say whether an op only looks at its input in another way."""
        roots = self.trace.roots
        used = {roots[value] for value in step.inputs}
        return bool(step.outputs) and all(roots[made] in used for made in step.outputs)

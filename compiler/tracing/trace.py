"""What one forward did, as frozen data: calls, ops, values, and how long each value lived.

A trace knows no devices. `replay` labels its values for one assignment of devices; everything else
(atoms, verification, demands, the graph) is read from a trace and such labels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from typing import Final, TypeAlias

from ...ir import ModuleTree
from ..running.sites import Kinds

UNKNOWN: Final = -1
"""Device reference: not known, mixes with everything."""
HOST: Final = -2
"""Device reference: the CPU, by name or by default."""


class Origin(IntEnum):
    """Where a value came from."""

    OP = 0
    INPUT = 1
    """Given to the model's call."""
    WEIGHT = 2
    """A parameter or buffer of the tree."""
    CONSTANT = 3
    """A tensor that is neither: an attribute of a module, or made where no op is seen."""
    ENTRY = 4
    """The same tensor as seen inside a module's call; the loader may have moved it."""
    STATE = 5
    """Kept by a former call and given to this one inside an object: keys, values, running states."""


@dataclass(frozen=True, slots=True)
class Value:
    """One tensor. Values that share storage form a chain through ``source``."""

    nbytes: int
    """Bytes of the storage behind it."""
    own_nbytes: int
    """Bytes of the tensor itself; less than ``nbytes`` for a view of a part."""
    origin: Origin
    source: int
    """The value whose storage it shares; its own number when it is the first."""
    born: int
    died: int
    """Steps between which it was referenced; the number of steps when it outlives the call."""
    step: int = -1
    """The step that made it; -1 for what was there before."""
    tensors: tuple[int, ...] = ()
    """Weights: indices into the tree, more than one when tied."""
    width: int = 4
    """Bytes of one element."""
    reference: int = UNKNOWN
    """Constants: where it was made (a value, `HOST` or `UNKNOWN`)."""
    beside: tuple[int, ...] = ()
    """Attributes of modules: the tensors it goes along with, if those run on one device."""

    @property
    def is_made_of_numbers(self) -> bool:
        """Whether a forward made it of numbers in its code, where no op is seen."""
        return self.origin is Origin.CONSTANT and self.born > 0


@dataclass(frozen=True, slots=True)
class Op:
    """One operation that ran in a call's own forward."""

    name: str
    call: int
    inputs: tuple[int, ...]
    """Values that must be on one device."""
    loose: tuple[int, ...]
    """Values that may also be on the CPU: scalars without dimensions, and indices."""
    outputs: tuple[int, ...]
    """New values; an in-place op has none."""
    reference: int | None = None
    """The device of the outputs when the op names one: a value, `HOST` or `UNKNOWN`."""
    flops: int = 0
    on_host: tuple[int, ...] = ()
    """Bytes of what it has beside while it runs on the CPU: inside, or where accelerators alone fuse it."""
    on_card: tuple[int, ...] = ()
    """The same on an accelerator: inside, where only the CPU fuses it, for a padded mask."""


@dataclass(frozen=True, slots=True)
class Enter:
    """A module is called: each tensor argument as the caller and as the module sees it."""

    call: int
    arguments: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Leave:
    """A module's call returns these values."""

    call: int
    results: tuple[int, ...]


Step: TypeAlias = Op | Enter | Leave


@dataclass(frozen=True, slots=True)
class Call:
    """One call of one module."""

    module: int
    """Index into the tree."""
    parent: int
    """The call in whose forward it happened; -1 for the model's own."""
    first: int
    last: int
    """Steps of its `Enter` and `Leave`."""


@dataclass(frozen=True)
class Trace:
    """One forward of a model on the meta device."""

    tree: ModuleTree
    calls: tuple[Call, ...]
    steps: tuple[Step, ...]
    values: tuple[Value, ...] = field(repr=False)
    kinds: Kinds
    cache: tuple[int, ...] = ()
    """Values that outlive the call as state for the next one: keys, values, recurrent states."""
    logits: tuple[int, ...] = ()
    """Values returned as scores over a vocabulary or over classes."""

    @cached_property
    def order(self) -> tuple[int, ...]:
        """Modules in the order of their first call."""
        return tuple(dict.fromkeys(call.module for call in self.calls))

    @property
    def containers(self) -> frozenset[int]:
        """Modules that are never called and are entered through their children."""
        return self.kinds.containers

    @cached_property
    def calls_of(self) -> dict[int, int]:
        """How often each module was called."""
        counts: dict[int, int] = {}
        for call in self.calls:
            counts[call.module] = counts.get(call.module, 0) + 1
        return counts

    @cached_property
    def own_flops(self) -> tuple[int, ...]:
        """Floating-point operations of each module's own forward, children not included."""
        flops = [0] * len(self.tree)
        for step in self.steps:
            if isinstance(step, Op):
                flops[self.calls[step.call].module] += step.flops
        return tuple(flops)

    @cached_property
    def own_launches(self) -> tuple[int, ...]:
        """Operations each module's own forward asks for, children not included."""
        counts = [0] * len(self.tree)
        for step in self.steps:
            if isinstance(step, Op):
                counts[self.calls[step.call].module] += 1
        return tuple(counts)

    @cached_property
    def flops(self) -> tuple[int, ...]:
        """Floating-point operations of each module with everything below it."""
        flops = list(self.own_flops)
        for module in range(len(self.tree) - 1, 0, -1):
            flops[self.tree.parents[module]] += flops[module]
        return tuple(flops)

    @cached_property
    def cache_nbytes(self) -> tuple[int, ...]:
        """The bytes each value of the cache holds on to when the forward ends.

        What a window keeps of a longer prompt is a view: until the next token the whole of it stays.
        """
        roots = [self.roots[value] for value in self.cache]
        return tuple(
            self.values[root].nbytes if roots.count(root) == 1 else self.values[value].own_nbytes
            for root, value in zip(roots, self.cache, strict=True)
        )

    @cached_property
    def roots(self) -> tuple[int, ...]:
        """The first value of each value's storage."""
        roots: list[int] = []
        for index, value in enumerate(self.values):
            roots.append(roots[value.source] if value.source < index else index)
        return tuple(roots)

    @cached_property
    def lives(self) -> dict[int, tuple[int, int]]:
        """For the first value of each storage: the steps between which the storage was alive."""
        lives: dict[int, tuple[int, int]] = {}
        for root, value in zip(self.roots, self.values, strict=True):
            born, died = lives.get(root, (value.born, value.died))
            lives[root] = (min(born, value.born), max(died, value.died))
        return lives

    @cached_property
    def activation_peak(self) -> int:
        """Most bytes alive at once that are neither weights nor inputs nor constants."""
        change = [0] * (len(self.steps) + 2)
        for root, (born, died) in self.lives.items():
            if self.values[root].origin is Origin.OP:
                change[max(born, 0)] += self.values[root].nbytes
                change[max(died, 0) + 1] -= self.values[root].nbytes
        peak = alive = 0
        for delta in change:
            alive += delta
            peak = max(peak, alive)
        return peak

    def path(self, call: int) -> str:
        """Return the path of the module a call belongs to."""
        return self.tree.paths[self.calls[call].module]

    def maker(self, value: int) -> int:
        """Return the module whose own forward made a value, or that owns it; -1 for inputs."""
        item = self.values[value]
        if item.origin is Origin.WEIGHT:
            return self.tree.owners[item.tensors[0]]
        if item.origin is Origin.ENTRY:
            return self.maker(item.source)
        step = self.steps[item.step] if item.step >= 0 else None
        return self.calls[step.call].module if step is not None else -1

"""Which modules must not be cut, read off the dataflow.

Everything is cut as finely as it goes and every piece gets a device of its own. Where an op then
meets two devices in a module's own forward, that module is made whole, innermost first, until no op
meets two. What is left may be put anywhere: equal devices never meet where different ones do not.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Final, Literal, TypeAlias, get_args

from ...ir import Atomic, ModuleTree, Together
from .labels import entry_units, first_name, start_target
from .replay import Label, Meeting, Places, replay
from .trace import Op, Trace
from .writes import lost_writes

Pair: TypeAlias = tuple[Label, Label]
Moving: TypeAlias = Literal["pieces", "held pieces", "registered first", "pieces, registered first", "all"]
"""Whose calls move their arguments, and where the model's own inputs start: every piece, or those with
tensors, from the first that is called; both from the first registered; also cut modules, as if each were
on one device."""
_MOVING: Final[tuple[Moving, ...]] = get_args(Moving)


def must_stay_whole(
    trace: Trace, *, together: bool = False, known: frozenset[str] = frozenset()
) -> tuple[Atomic, ...]:
    """Return the modules that must stay whole for any assignment of the rest to be safe.

    A class is named when every module of it is whole, paths otherwise. With ``together`` a large
    module that mixes a few of its parts in its own forward stays open; `cut_rules` names the parts.
    ``known`` are classes to keep whole where the forward did not go; nothing else is known there.
    """
    rules = cut_rules(trace, together=together, known=known)
    return tuple(rule for rule in rules if isinstance(rule, Atomic))


def cut_rules(
    trace: Trace, *, together: bool = True, known: frozenset[str] = frozenset()
) -> tuple[Atomic | Together, ...]:
    """Return what must stay whole, and what an open module needs on one device."""
    return Cuts(trace, together=together, known=known).settle().rules()


class Cuts:
    """The finest cut that is safe, found by making modules whole until nothing meets."""

    def __init__(self, trace: Trace, *, together: bool = True, known: frozenset[str] = frozenset()) -> None:
        self.trace = trace
        self.tree = trace.tree
        self.together = together
        self.whole = set(_initially_whole(trace, known))
        self._links: dict[int, int] = {}
        """Pieces joined to other pieces. A piece is a module, or a tensor as a negative number."""
        self._reads = sorted(_reads_of_others(trace))

    def of(self, trace: Trace) -> Cuts:
        """Return the same cut for another forward of the model."""
        if trace is self.trace:
            return self
        twin = copy.copy(self)
        twin.trace = trace
        return twin

    def settle(self) -> Cuts:
        """Make modules whole until an assignment of all different devices meets nowhere."""
        clean = turn = 0
        while clean < len(_MOVING):
            changed = self._settle_once(_MOVING[turn]) or self._read_uncalled()
            clean = 0 if changed else clean + 1
            turn = turn if changed else (turn + 1) % len(_MOVING)
        return self

    def _settle_once(self, moving: Moving) -> bool:
        labels = replay(self.trace, self.places(moving))
        blamed: dict[int, set[Pair]] = {}
        tops = self.tops()
        for meeting in labels.meetings:
            blamed.setdefault(self._still_cut(self._mixer(meeting), tops), set()).add(meeting.labels)
        for lost in lost_writes(self.trace, labels):
            pair = labels.values[lost.origin], labels.values[lost.copy]
            blamed.setdefault(self._still_cut(lost.separator(self.trace), tops), set()).add(pair)
        before = len(self.whole), len(self._links)
        for module in _innermost(self.tree, blamed):
            self._repair(module, blamed[module], tops)
        if blamed and before == (len(self.whole), len(self._links)):  # joining did not help: a shared module
            self.whole.update(_innermost(self.tree, blamed))
        return before != (len(self.whole), len(self._links))

    def _read_uncalled(self) -> bool:
        """Make whole what reads the weights of a child it does not call; say whether anything was.

        A streamed child has its weights on the device only while it is called. A module with a stack
        to cut stays open all the same: its child is then not to be streamed.
        """
        tops, before = self.tops(), len(self.whole)
        for reader, owner in self._reads:
            inside = {top for top in tops[reader : self.tree.ends[reader]] if top >= 0}
            stacks = [top for top in inside if self.tree.ends[top] > top + 1]
            worth_cutting = self.together and len(stacks) > 1
            if tops[reader] < 0 <= tops[owner] and not worth_cutting:
                self.whole.add(reader)
        return len(self.whole) > before

    def places(self, moving: Moving) -> Places:
        """Return the assignment that gives every piece a device of its own.

        Which modules move their arguments depends on what a plan puts together and on who runs it, so a
        cut has to be safe in each case.
        """
        tree, tops = self.tree, self.tops()
        labels = [
            self._piece(tops[owner] if tops[owner] >= 0 else -1 - tensor)
            for tensor, owner in enumerate(tree.owners)
        ]
        targets: list[Label] = [None] * len(tree)
        for module, unit in enumerate(entry_units(self.trace, tops)):
            if unit >= 0 and (moving.startswith("pieces") or tree.tensors(module)):
                targets[first_name(tree, module)] = self._piece(unit)
            elif moving == "all" and tops[module] < 0 and tree.tensors(module):
                targets[first_name(tree, module)] = labels[tree.first_tensors[module]]
        start = start_target(self.trace, targets)
        if moving.endswith("registered first"):
            start = next((self._piece(top) for top in tops if top >= 0 and tree.tensors(top)), start)
        return Places(labels, targets, start)

    def tops(self) -> list[int]:
        """Return for each module the outermost whole module it belongs to; -1 while it is cut."""
        tops: list[int] = []
        for module, parent in enumerate(self.tree.parents):
            above = tops[parent] if parent >= 0 else -1
            tops.append(above if above >= 0 else (module if module in self.whole else -1))
        return tops

    def rules(self) -> tuple[Atomic | Together, ...]:
        """Return the cut as rules of a plan."""
        return (*_named(self.tree, self.whole_modules()), *self.togethers())

    def whole_modules(self) -> list[int]:
        """Return the outermost whole modules that could have been cut."""
        return [m for m, top in enumerate(self.tops()) if m == top and (self.tree.ends[m] > m + 1 or not m)]

    def togethers(self) -> Iterator[Together]:
        """Yield what has to share a device, by path, in tree order."""
        groups: dict[int, list[int]] = {}
        for piece in {*self._links, *self._links.values()}:
            groups.setdefault(self._piece(piece), []).append(piece)
        tops = self.tops()
        for pieces in sorted(groups.values(), key=lambda group: min(map(self._position, group))):
            free = sorted((p for p in pieces if self._is_free(p, tops)), key=self._position)
            if len(free) > 1:
                yield Together(tuple(map(self.path, free)))

    def _is_free(self, piece: int, tops: list[int]) -> bool:
        return tops[piece] == piece if piece >= 0 else tops[self.tree.owners[-1 - piece]] < 0

    def _position(self, piece: int) -> tuple[int, int]:
        return (piece, -1) if piece >= 0 else (self.tree.owners[-1 - piece], -1 - piece)

    def path(self, piece: int) -> str:
        """Return the path of a piece: a module, or a tensor as a negative number."""
        return self.tree.paths[piece] if piece >= 0 else self.tree.tensor_paths[-1 - piece]

    def _piece(self, piece: int) -> int:
        while piece in self._links:
            piece = self._links[piece]
        return piece

    def _mixer(self, meeting: Meeting) -> int:
        """Return the module in whose forward two devices meet."""
        step = self.trace.steps[meeting.step]
        assert isinstance(step, Op)  # noqa: S101  only ops meet
        return self.trace.calls[step.call].module if step.call >= 0 else 0

    def _still_cut(self, module: int, tops: list[int]) -> int:
        """Return the innermost module around one that is still cut."""
        while module > 0 and tops[module] >= 0:
            module = self.tree.parents[module]
        return module

    def _repair(self, module: int, met: set[Pair], tops: list[int]) -> None:
        pairs = sorted((a, b) for a, b in met if isinstance(a, int) and isinstance(b, int))
        if not self.together or not self._may_link(module, pairs, tops):
            self.whole.add(module)
            return
        for first, second in pairs:
            one, other = sorted((self._piece(first), self._piece(second)), key=self._position)
            if one != other:
                self._links[other] = one

    def _may_link(self, module: int, pairs: list[tuple[int, int]], tops: list[int]) -> bool:
        """Say whether joining a few pieces leaves a module worth cutting: some stack stays free."""
        inside = range(module, self.tree.ends[module])
        if not pairs or not all(self._position(piece)[0] in inside for pair in pairs for piece in pair):
            return False
        joined = {piece for pair in pairs for piece in pair}
        joined |= {piece for piece in self._links if self._piece(piece) in joined}
        pieces = {top for top in tops[module : self.tree.ends[module]] if top >= 0}
        stacks = [p for p in pieces - joined if self.tree.ends[p] > p + 1]
        return bool(stacks) and 2 * len(joined & pieces) <= len(pieces)


def _initially_whole(trace: Trace, known: frozenset[str]) -> Iterator[int]:
    """Yield leaves, and what the trace did not run: nothing is known about its dataflow."""
    tree = trace.tree
    called = {call.module for call in trace.calls}
    ran = [module in called for module in range(len(tree))]
    for module in range(len(tree) - 1, 0, -1):
        ran[tree.parents[module]] |= ran[module]
    listed = [name in known for name in tree.classes]
    for module in range(len(tree)):
        inside = range(module, tree.ends[module])
        if (
            len(inside) == 1
            or (not ran[module] and listed[module])
            or (not ran[module] and module not in trace.containers and not any(listed[m] for m in inside))
        ):
            yield module


def _reads_of_others(trace: Trace) -> set[tuple[int, int]]:
    """Return which modules read, in their own forward, weights that are neither theirs nor above them."""
    tree, found = trace.tree, set[tuple[int, int]]()
    for step in trace.steps:
        if not isinstance(step, Op) or step.call < 0:
            continue
        module = trace.calls[step.call].module
        for value in (*step.inputs, *step.loose):
            owners = [tree.owners[tensor] for tensor in trace.values[value].tensors]
            if owners and not any(owner <= module < tree.ends[owner] for owner in owners):
                found.add((module, owners[0]))
    return found


def _innermost(tree: ModuleTree, modules: Iterable[int]) -> list[int]:
    """Return those modules that contain no other of them."""
    found: list[int] = []
    for module in sorted(modules, reverse=True):
        if not found or not module <= found[-1] < tree.ends[module]:
            found.append(module)
    return found


def _named(tree: ModuleTree, modules: list[int]) -> Iterator[Atomic]:
    covered = set(modules)
    by_class: dict[str, list[int]] = {}
    for module in modules:
        by_class.setdefault(tree.classes[module], []).append(module)
    inside = {m for module in modules for m in range(module, tree.ends[module])}
    of_class: dict[str, list[int]] = {}
    for module, name in enumerate(tree.classes):
        of_class.setdefault(name, []).append(module)
    for name, members in by_class.items():
        if members == [0]:
            yield Atomic("")
        elif all(module in covered or module in inside for module in of_class[name]):
            yield Atomic(name, by_class=True)
        else:
            yield from (Atomic(tree.paths[module]) for module in members)

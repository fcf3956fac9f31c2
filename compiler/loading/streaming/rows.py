"""Streaming by rows: what a call chose is brought, numbered anew, and computed with as if it were all.

A choice of nearly everything is a whole stack, which comes ahead of use like any other site. One that
is too large for the streaming buffer is taken in turns, and the results added.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import torch

from ....ir import Diagnostic, PlanError
from ....ir.rules.loading import WRITTEN_BY_ROWS
from .arena import aligned
from .carrier import outside
from .choosers import Args, Choice, Chooser, Kwargs, NamedArguments
from .frames import calls_of
from .lanes import DirectLane
from .loan import Loan, tables_of
from .row_cache import RowCache, stand_in
from .row_copies import rows_at_hand, send
from .row_views import RowViews
from .site import Cargo, Load

if TYPE_CHECKING:
    from .lanes import Lane
    from .stream import Stream

_WHOLE: Final = 0.75
"""The share of all experts from which on a pass brings stacks: ahead of use they cost no waiting."""
_LOOK: Final = 0.05
"""Seconds between two looks at whether the call that has a module's rows is still going on."""

_WRITTEN: Final = "`{}` was written to by a forward that had some rows of it alone, and is as it was before"


class RowSite:
    """One module that takes rows; a site of its stream that is entered only when it needs everything."""

    def __init__(self, stream: Stream, number: int, chooser: Chooser, cache: int = 0) -> None:
        """Take ``cache`` bytes of the device for the rows used last."""
        self.stream, self.number, self._chooser = stream, number, chooser
        self.site = stream.sites[number]
        self._places = tables_of(self.site.module, self.site.streamed, chooser.tables)
        self._tables = [table.one for table in self._places]
        self._row = self._of_a_row()
        slots = min(chooser.count, cache // max(1, self._row))
        self._cache = RowCache(self._tables, slots) if slots else None
        self._slots: Loan | None = None
        """Of the cache, call after call."""
        self._loan: Loan | None = None
        self._rest: Callable[[torch.Tensor], torch.Tensor] | None = None
        self._owner: int | None = None

    def enter(self, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
        """Bring what a call chose; returns its arguments as they are for that."""
        self._have_to_myself()
        try:
            return self._enter(self._chooser.call(args, kwargs))
        except BaseException:
            with suppress(PlanError):  # whatever it wrote: it failed before
                self.leave(None)
            raise

    def leave(self, output: Any) -> Any:  # noqa: ANN401  # what the module returns
        """Put the module back to rest; returns its output."""
        if self._owner != threading.get_ident():
            return output
        try:
            self._back()
        finally:
            rest, self._rest = self._rest, None
            with self.stream.turns:
                self._owner = None
                self.stream.turns.notify_all()
        return output if rest is None or not isinstance(output, torch.Tensor) else rest(output)

    def _back(self) -> None:
        """Take back what is lent; raises `PlanError` if it is some rows and the forward wrote to them."""
        spoiled = [] if self._loan is None else self._loan.spoiled()
        self._loan = None
        self.stream.leave(self.number)
        if not spoiled:
            return
        self.close()
        path = self.site.path
        names = [f"{path}.{name}".lstrip(".") for name in spoiled]
        help_ = f"stream it whole: `place {path or '**'}` without `by rows`; or write to it between forwards"
        raise PlanError([Diagnostic(WRITTEN_BY_ROWS, _WRITTEN.format(name), help=help_) for name in names])

    def _have_to_myself(self) -> None:
        """Wait until no other call has this module's rows; what a broken-off call left is put to rest."""
        self.stream.notice_fork()
        me = threading.get_ident()
        with self.stream.turns:
            while self._owner is not None and self._owner != me and calls_of(self.site.module, self._owner):
                self.stream.turns.wait(_LOOK)
            left, self._owner = self._owner is not None, me
        if left and self._loan is not None:
            with self.stream.lock:
                self._loan.end()
            self._loan = self._rest = None
            self.close()  # it may have written to what is cached

    def _enter(self, call: NamedArguments) -> tuple[Args, Kwargs]:
        choice = Choice(call[self._chooser.index])
        rows = len(choice.rows)
        if self.stream.follow(self.number):
            self._row = self._of_a_row()
            self.close()
        changed = not all(table.rests for table in self._places)  # or a module tied to this one has all of it
        if self._chooser.experts or changed:
            whole = changed or self._is_whole(rows)
            self.stream.choose(whole=whole)
            if whole:
                self.site.tally.misses += rows
                self.stream.enter(self.number)
                return call.args, call.kwargs
        if not any(one.moves for one in self._tables):
            return self._in_place(choice.rows, call)
        if self._cache is not None and rows <= self._cache.slots:
            return self._cached(self._cache, choice, call)
        with self.stream.lock:
            room = self.stream.supply.room(self._tables[0].device, rows * self._row)
        if not self._chooser.experts or rows * self._row <= max(self._row, room):
            self._lend(self._bring(choice.rows))
            return call.having({self._chooser.index: choice.numbered(range(rows))})
        a_turn = room // (2 * self._row)  # while one computes, the next is brought
        return self._in_turns(choice, a_turn, call)

    def _of_a_row(self) -> int:
        return sum(one.nbytes // max(1, self._chooser.count) for one in self._tables)

    def _is_whole(self, rows: int) -> bool:
        budget = self.stream.supply.budget(self._tables[0].device)
        return rows >= _WHOLE * self._chooser.count and self.site.nbytes <= budget

    def _in_place(self, rows: Sequence[int], call: NamedArguments) -> tuple[Args, Kwargs]:
        """Have the chosen rows of files in memory; the module computes with the pages themselves."""
        places = [(row, row) for row in rows]
        pairs = [pair for one in self._tables for pair in rows_at_hand(one, places, one.rows)]
        self._count(len(rows), len(pairs) // max(1, len(self._tables)))
        self.stream.admit(self.number, Load([(one, one.stamp, None) for one in self._tables]))
        return call.args, call.kwargs

    def _cached(self, cache: RowCache, choice: Choice, call: NamedArguments) -> tuple[Args, Kwargs]:
        slots, brought = cache.place(choice.rows)
        self._count(len(slots), len(brought))
        if brought or not cache.values:
            try:
                with torch.inference_mode(mode=False), torch.no_grad():
                    cache.fill(brought, self._lane)
            except BaseException:
                cache.forget()
                raise
        self._slots = self._slots or self._loan_of(cache.values, cache.slots)
        load = self._load(self._slots)
        load.cache = cache
        load.marks.append((self._lane, cache.filled))
        self._lend(load)
        return call.having({self._chooser.index: choice.numbered(slots)})

    def _in_turns(self, choice: Choice, of: int, call: NamedArguments) -> tuple[Args, Kwargs]:
        """Compute all turns but the last here; the module's own call computes that."""
        names, turns = self._chooser.names, choice.turns(of)
        hidden, _, weights = (call[name] for name in names)
        result = torch.zeros_like(hidden)
        load = self._bring(turns[0])
        for number, turn in enumerate(turns):
            token, which, row = choice.pairs_of(turn)
            part = (hidden[token], row[:, None], weights[token, which][:, None])
            args, kwargs = call.having(dict(zip(names, part, strict=True)))
            self._lend(load)
            if number + 1 == len(turns):
                self._rest = lambda output, token=token: result.index_add_(0, token, output)
                return args, kwargs
            load = self._bring(turns[number + 1])
            try:
                result.index_add_(0, token, self.site.module.forward(*args, **kwargs))
                self._back()
            except BaseException:
                self._give_back(load)
                raise
        return call.args, call.kwargs

    def _bring(self, rows: Sequence[int]) -> Load:
        """Bring rows to memory of the streaming buffer."""
        self._count(len(rows), len(rows))
        lane, start, cargo = self._lane, 0, list[Cargo]()
        device = self._tables[0].device
        sizes = [aligned(len(rows) * (one.nbytes // self._chooser.count)) for one in self._tables]
        with torch.inference_mode(mode=False), torch.no_grad():
            if device.type != "cpu":
                with self.stream.lock:
                    carrier = self.stream.supply.carrier(device)
                    cargo = [Cargo(carrier, carrier.arena.take(sum(sizes)))]
            lot = cargo[0].lot if cargo else None
            stacks: list[torch.Tensor] = []
            try:
                memory = outside(sum(sizes), device, lane) if lot is None else lot.memory
                for one, size in zip(self._tables, sizes, strict=True):
                    shape = torch.Size((len(rows), *one.rest.shape[1:]))
                    nbytes = shape.numel() * one.dtype.itemsize
                    stacks.append(memory[start : start + nbytes].view(one.dtype).view(shape))
                    start += size
                room = [(one, RowViews(stack)) for one, stack in zip(self._tables, stacks, strict=True)]
                after = [lane.mark()] if lot is None else lot.after
                mark = send(lane, room, [(row, place) for place, row in enumerate(rows)], after)
                values = [stand_in(one, stack) for one, stack in zip(self._tables, stacks, strict=True)]
                load = self._load(self._loan_of(values, len(rows)), cargo)
            except BaseException:
                try:
                    lane.settle()
                finally:
                    self._give_back(Load([], cargo))
                raise
        load.marks.append((lane, mark))
        return load

    def _loan_of(self, values: Sequence[torch.Tensor], rows: int) -> Loan:
        given = list(zip(self._places, values, strict=True))
        return Loan(self.site.module, given, self._chooser.settings(rows))

    def _load(self, loan: Loan, cargo: Sequence[Cargo] = ()) -> Load:
        """Return rows with what the module has besides tables, which is small and comes whole."""
        others = [one for one in self.site.streamed if one not in self._tables]
        return Load([(one, one.stamp, one.copy()) for one in others], list(cargo), loan=loan)

    def _lend(self, load: Load) -> None:
        start = time.perf_counter()
        try:
            with self.stream.lock:
                load.join()
            self.site.tally.seconds += time.perf_counter() - start
            self._loan = load.loan
            self.stream.admit(self.number, load)
        except BaseException:
            self._give_back(load)
            raise

    def _give_back(self, load: Load) -> None:
        with self.stream.lock:
            load.give_back(used=False)

    @cached_property
    def _lane(self) -> Lane:
        device = self._tables[0].device
        if device.type == "cpu":
            return DirectLane()
        with self.stream.lock:
            return self.stream.supply.carrier(device).lane

    def _count(self, rows: int, missing: int) -> None:
        tally = self.site.tally
        tally.hits += rows - missing
        tally.misses += missing
        tally.nbytes += missing * self._row if any(one.moves for one in self._tables) else 0

    def close(self) -> None:
        """Let go of the cache."""
        if self._cache is not None:
            self._cache.drop()
            self._slots = None

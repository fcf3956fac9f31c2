"""Streaming by rows: what a call chose is brought, numbered anew, and computed with as if it were all.

A choice of nearly everything is a whole stack, which comes ahead of use like any other site. One that
is too large for the streaming buffer is taken in turns, and the results added.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import torch

from ....ir import Diagnostic, PlanError
from ....ir.rules.loading import WRITTEN_BY_ROWS
from ...machine.pages import Ahead
from .arena import aligned
from .carrier import outside, row_pairs
from .choosers import Args, Chooser, Kwargs, NamedArguments, pairs_of, settings_of, shares
from .frames import calls_of
from .lanes import DirectLane
from .row_cache import RowCache
from .site import Brought, Cargo, Load

if TYPE_CHECKING:
    from torch import nn

    from .courier import Pair
    from .lanes import Lane
    from .stream import Stream
    from .streamed import Streamed

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
        module = self.site.module
        ids = {id(getattr(module, name)) for name in chooser.tables}
        self._tables = [one for one in self.site.streamed if id(one.tensor) in ids]
        self._row = sum(one.nbytes // max(1, chooser.count) for one in self._tables)
        slots = min(chooser.count, cache // max(1, self._row))
        self._cache = RowCache(self._tables, slots) if slots else None
        self._changed: settings_of | None = None
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
            rest, self._rest, self._changed = self._rest, None, None
            with self.stream.turns:
                self._owner = None
                self.stream.turns.notify_all()
        return output if rest is None or not isinstance(output, torch.Tensor) else rest(output)

    def _back(self) -> None:
        """Take back what is lent; raises `PlanError` if it is some rows and the forward wrote to them."""
        module, path = self.site.module, self.site.path
        spoiled = [one for one in self._tables if self._changed is not None and one.spoiled]
        try:
            self.stream.leave(self.number)
        finally:
            if self._changed is not None:
                self._changed.__exit__()
        if not spoiled:
            return
        self._forget()
        own = [name for one in spoiled for name in _names_in(module, one)]
        for name in own:
            vars(module).pop(name, None)  # a plain attribute in its place would hide it
        names = [f"{path}.{name}".lstrip(".") for name in own]
        help_ = f"stream it whole: `place {path or '**'}` without `by rows`; or write to it between forwards"
        raise PlanError([Diagnostic(WRITTEN_BY_ROWS, _WRITTEN.format(name), help=help_) for name in names])

    def _forget(self) -> None:
        """Let no row count as cached: a forward may have written to it."""
        if self._cache is not None:
            self._cache.forget()

    def _have_to_myself(self) -> None:
        """Wait until no other call has this module's rows; what a broken-off call left is put to rest."""
        self.stream.notice_fork()
        me = threading.get_ident()
        with self.stream.turns:
            while self._owner is not None and self._owner != me and calls_of(self.site.module, self._owner):
                self.stream.turns.wait(_LOOK)
            left, self._owner = self._owner is not None, me
        if left and self._changed is not None:
            self._changed.__exit__()
            self._changed = self._rest = None
            self._forget()

    def _enter(self, call: NamedArguments) -> tuple[Args, Kwargs]:
        index = call[self._chooser.index]
        chosen, again = torch.unique(index.detach().to("cpu"), return_inverse=True)
        alone = (one.at_home and not one.users and _names_in(self.site.module, one) for one in self._tables)
        changed = not all(alone)  # by a wrapper, or all of it is there for a module tied to this one
        if self._chooser.experts or changed:
            whole = changed or self._is_whole(chosen.numel())
            self.stream.choose(whole=whole)
            if whole:
                self.site.tally.misses += chosen.numel()
                self.stream.enter(self.number)
                return call.args, call.kwargs
        if not any(one.moves for one in self._tables):
            return self._in_place(chosen.tolist(), call)
        if self._cache is not None and chosen.numel() <= self._cache.slots:
            return self._cached(self._cache, chosen.tolist(), again, call)
        with self.stream.lock:
            room = self.stream.supply.room(self._tables[0].device, chosen.numel() * self._row)
        if not self._chooser.experts or chosen.numel() * self._row <= max(self._row, room):
            self._lend(self._bring(chosen.tolist()), chosen.numel())
            return call.having({self._chooser.index: _like(again, index)})
        a_turn = room // (2 * self._row)  # while one computes, the next is brought
        return self._in_turns(shares(chosen, a_turn), call)

    def _is_whole(self, rows: int) -> bool:
        device = self._tables[0].device
        fits = self.site.nbytes <= self.stream.supply.budget(device)
        return fits and rows >= _WHOLE * self._chooser.count

    def _in_place(self, rows: Sequence[int], call: NamedArguments) -> tuple[Args, Kwargs]:
        """Have the chosen rows of files in memory; the module computes with the pages themselves."""
        pairs = [pair for one in self._tables for row in rows for pair in row_pairs(one, row, one.rest[row])]
        self._count(len(rows), len(pairs) // max(1, len(self._tables)))
        self.stream.admit(self.number, Load([(one, one.stamp, None) for one in self._tables]))
        return call.args, call.kwargs

    def _cached(
        self, cache: RowCache, rows: Sequence[int], again: torch.Tensor, call: NamedArguments
    ) -> tuple[Args, Kwargs]:
        slots, brought = cache.place(rows)
        self._count(len(rows), len(brought))
        lane, mark = self._lane(), None
        try:
            with torch.inference_mode(mode=False), torch.no_grad():
                for one in self._tables:
                    memory = cache.memory(one, lane)
                    mark = _send(lane, one, [(row, memory[slot]) for row, slot in brought], lane.mark())
                values = {id(one): cache.memory(one, lane).data for one in self._tables}
        except BaseException:
            cache.forget()
            raise
        load = self._load(values, [])
        load.cached = True
        load.marks.append((lane, mark))
        self._lend(load, cache.slots)
        index = call[self._chooser.index]
        return call.having({self._chooser.index: _like(torch.tensor(slots)[again], index)})

    def _in_turns(self, turns: Sequence[torch.Tensor], call: NamedArguments) -> tuple[Args, Kwargs]:
        """Compute all turns but the last here; the module's own call computes that."""
        names = self._chooser.names
        hidden, chosen, weights = (call[name] for name in names)
        index = chosen.detach().to("cpu")
        result = torch.zeros_like(hidden)
        load = self._bring(turns[0].tolist())
        for number, turn in enumerate(turns):
            token, which, row = (_like(one, chosen) for one in pairs_of(index, turn.tolist()))
            part = (hidden[token], row[:, None], weights[token, which][:, None])
            args, kwargs = call.having(dict(zip(names, part, strict=True)))
            self._lend(load, len(turn))
            if number + 1 == len(turns):
                self._rest = lambda output, token=token: result.index_add_(0, token, output)
                return args, kwargs
            load = self._bring(turns[number + 1].tolist())
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
        lane, start, cargo = self._lane(), 0, list[Cargo]()
        device = self._tables[0].device
        sizes = [aligned(len(rows) * (one.nbytes // self._chooser.count)) for one in self._tables]
        with torch.inference_mode(mode=False), torch.no_grad():
            if device.type != "cpu":
                with self.stream.lock:
                    carrier = self.stream.supply.carrier(device)
                    cargo = [Cargo(carrier, carrier.arena.take(sum(sizes)))]
            lot = cargo[0].lot if cargo else None
            values: dict[int, torch.Tensor] = {}
            try:
                memory = outside(sum(sizes), device, lane) if lot is None else lot.memory
                mark = lane.copy((), [lane.mark()] if lot is None else lot.after)
                for one, size in zip(self._tables, sizes, strict=True):
                    shape = (len(rows), *one.rest.shape[1:])
                    nbytes = torch.Size(shape).numel() * one.dtype.itemsize
                    stack = memory[start : start + nbytes].view(one.dtype).view(shape)
                    mark = _send(lane, one, list(zip(rows, stack, strict=True)), mark)
                    values[id(one)] = stack.data
                    start += size
                load = self._load(values, cargo)
            except BaseException:
                try:
                    lane.settle()
                finally:
                    self._give_back(Load([], cargo))
                raise
        load.marks.append((lane, mark))
        return load

    def _load(self, values: dict[int, torch.Tensor], cargo: list[Cargo]) -> Load:
        """Return rows with what the module has besides tables, which is small and comes whole."""
        others = [one for one in self.site.streamed if id(one) not in values]
        copies: list[Brought] = [(one, one.stamp, values[id(one)]) for one in self._tables]
        copies += [(one, one.stamp, one.copy()) for one in others]
        return Load(copies, cargo, some=values.keys())

    def _lend(self, load: Load, rows: int) -> None:
        start = time.perf_counter()
        try:
            with self.stream.lock:
                load.join()
            self.site.tally.seconds += time.perf_counter() - start
            self.stream.admit(self.number, load)
        except BaseException:
            self._give_back(load)
            raise
        self._changed = settings_of(self.site.module, self._chooser.settings(rows))
        self._changed.__enter__()

    def _give_back(self, load: Load) -> None:
        with self.stream.lock:
            load.give_back(used=False)

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


def _send(lane: Lane, one: Streamed, rows: Sequence[tuple[int, torch.Tensor]], after: Any) -> Any:  # noqa: ANN401
    """Copy rows to their places; returns the mark of the copies."""
    pairs: Iterator[Pair] = (pair for row, room in rows for pair in row_pairs(one, row, room))
    known = one.block is not None and one.block.pinned and one.dtype == one.rest.dtype
    if known:
        return lane.copy(pairs, [after])
    with Ahead([] if one.pieces is None else one.pieces.spans(row for row, _ in rows)):
        return lane.carry(pairs, [after])


def _names_in(module: nn.Module, one: Streamed) -> list[str]:
    """Return what a module itself calls a tensor."""
    own = (id(module._parameters), id(module._buffers))  # noqa: SLF001
    return [name for table, name in one.homes if id(table) in own]


def _like(index: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    return index.to(given.device, given.dtype)

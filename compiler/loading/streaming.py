"""Weights that are stored in one place and used in another: brought there in time, taken away after.

A site is a module whose streamed tensors come and go together. A background thread prepares the
sites that follow, in the order seen in the last forward, within the plan's streaming buffer.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NoReturn, SupportsIndex, TypeAlias

import torch

from ...ir import Diagnostic, PlanError
from ...ir.rules.loading import COPIED_WHILE_STREAMING
from .streamed import Streamed


@dataclass(slots=True)
class Site:
    """A module and the tensors that are there while it runs."""

    path: str
    streamed: list[Streamed] = field(default_factory=list[Streamed])
    made: Sequence[tuple[dict[str, Any], str, torch.Tensor]] = ()
    """What hooks make from them before each forward: attributes, with what they are at rest."""

    @property
    def nbytes(self) -> int:
        """Bytes of the streaming buffer it takes."""
        return sum(one.nbytes for one in self.streamed)

    def check(self) -> None:
        """Raise `PlanError` if a file the site is served from is not what it was; costs a microsecond."""
        files = {id(one.mapped.file): one.mapped for one in self.streamed if one.mapped is not None}
        for mapped in files.values():
            mapped.check()


Brought: TypeAlias = tuple[Streamed, tuple[int, int], "torch.Tensor | None"]
"""A tensor, its stamp when it was copied, and the copy; None where what is at rest will do."""


def _is_current(site: Site, brought: Sequence[Brought]) -> bool:
    """Say whether copies are of what is at rest now: a forward may write between its modules too."""
    if len(brought) != len(site.streamed):
        return False
    rows = zip(site.streamed, brought, strict=True)
    return all(one is now and stamp == now.stamp for now, (one, stamp, _) in rows)


class Stream:
    """Prepares sites ahead of use and keeps what is prepared within a number of bytes."""

    def __init__(self, sites: Sequence[Site], budget: int) -> None:
        self.sites = tuple(sites)
        self._sizes = [site.nbytes for site in sites]
        self.budget = budget or 2 * max(self._sizes, default=0)
        self._next = dict(zip(range(len(sites)), range(1, len(sites)), strict=False))
        self._inside = [0] * len(sites)
        self._first = 0
        self._last: int | None = None
        self._ready: dict[int, Future[list[Brought]]] = {}
        self._held = 0
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.RLock()
        self._sides: dict[torch.device, torch.cuda.Stream] = {}

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Refuse to be copied or pickled, and with it the model whose hooks have it."""
        message = f"`{self.sites[0].path or '.'}` is streamed, so the model cannot be copied or pickled"
        help_ = "load another model by the same plan, save its `state_dict()`, or call `release_model` first"
        raise PlanError([Diagnostic(COPIED_WHILE_STREAMING, message, help=help_)])

    def begin(self) -> None:
        """Start preparing for a forward of the whole model."""
        with self._lock:
            self._last = None
            self._ahead(self._first)

    def end(self) -> None:
        """Drop what was prepared and not used; weights may change before the next forward."""
        with self._lock:
            for future in self._ready.values():
                future.cancel()
            self._ready.clear()
            self._last = None

    def enter(self, number: int) -> None:
        """Bring a site's tensors to where it runs; if that fails, the site stays at rest."""
        with self._lock:
            site = self.sites[number]
            site.check()
            if self._last is None:
                self._first = number
            else:
                self._next[self._last] = number
            self._last = number
            prepared = self._ready.pop(number, None)
            copies = None if prepared is None else prepared.result()
            if copies is None or not _is_current(site, copies):
                copies = self._prepare(site)
            for one, _, copy in copies:
                if one.users == 0:
                    one.lend(None if copy is None else self._usable(copy))
                one.users += 1
            self._inside[number] += 1
            self._held += self._sizes[number]
            self._ahead(self._next.get(number))

    def leave(self, number: int) -> None:
        """Put a site's tensors back to rest; does nothing if it was not brought."""
        with self._lock:
            if not self._inside[number]:
                return
            self._inside[number] -= 1
            self._held -= self._sizes[number]
            streamed = self.sites[number].streamed
            for one in streamed:
                one.users -= 1
            self._settle([one for one in streamed if one.users == 0])
            for table, name, value in () if self._inside[number] else self.sites[number].made:
                table[name] = value
            self._ahead(self._next.get(number))

    def close(self) -> None:
        """End the thread and put everything to rest."""
        self.end()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        self._inside = [0] * len(self.sites)
        streamed = [one for site in self.sites for one in site.streamed]
        for one in streamed:
            one.users = 0
        self._settle(streamed)

    def _settle(self, streamed: Sequence[Streamed]) -> None:
        """Put tensors to rest, as the forward left them.

        A write to one tensor of a module counts for all in that table: batch norm marks its counter as
        written and its statistics not.
        """
        written = {table for one in streamed for table in one.written()}
        with torch.inference_mode(mode=False), torch.no_grad():
            replaced = [(one, one.replaced()) for one in streamed if one.used is not None]
            for one in streamed:
                one.settle(written)
        for one, others in replaced:
            if others or not one.homes:
                self._exchange(one, others)

    def _exchange(self, one: Streamed, others: Sequence[Streamed]) -> None:
        kept = [one, *others] if one.homes else others
        for number, site in enumerate(self.sites):
            if any(other is one for other in site.streamed):
                site.streamed = [*(other for other in site.streamed if other is not one), *kept]
                self._sizes[number] = site.nbytes

    def _ahead(self, number: int | None) -> None:
        """Prepare what follows as far as the buffer allows; each site once."""
        seen: set[int] = set()
        taken = self._held + sum(self._sizes[ready] for ready in self._ready)
        while number is not None and number not in seen:
            seen.add(number)
            if number not in self._ready:
                taken += self._sizes[number]
                if taken > self.budget or self._busy(number):
                    return
                if self._pool is None:
                    self._pool = ThreadPoolExecutor(1, thread_name_prefix="compile-plan-prefetch")
                self._ready[number] = self._pool.submit(self._prepare, self.sites[number])
            number = self._next.get(number)

    def _busy(self, number: int) -> bool:
        return any(one.users for one in self.sites[number].streamed)

    def _prepare(self, site: Site) -> list[Brought]:
        with torch.inference_mode(mode=False), torch.no_grad():
            cards = {one.device for one in site.streamed if one.device.type == "cuda"}
            for one in site.streamed:
                one.read_ahead()
            if not cards or threading.current_thread() is threading.main_thread():
                return [(one, one.stamp, one.copy()) for one in site.streamed]
            return [(one, one.stamp, self._beside(one)) for one in site.streamed]

    def _beside(self, one: Streamed) -> torch.Tensor | None:
        """Copy on a stream of its own, so that the card computes meanwhile."""
        if one.device.type != "cuda":
            return one.copy()
        side = self._sides.setdefault(one.device, torch.cuda.Stream(one.device))  # type: ignore[no-untyped-call]
        with torch.cuda.stream(side):
            copy = one.copy()
        side.synchronize()
        return copy

    def _usable(self, copy: torch.Tensor) -> torch.Tensor:
        """Tell the allocator that the computing stream uses memory a copying stream made."""
        if copy.device.type == "cuda":
            copy.record_stream(torch.cuda.current_stream(copy.device))
        return copy

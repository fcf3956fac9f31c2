"""Weights that are stored in one place and used in another: brought there in time, taken away after.

A site is a module whose streamed tensors come and go together. A background thread prepares the
sites that follow, in the order seen in the last forward, within the plan's streaming buffer.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch

from .reading import Mapped


@dataclass(slots=True)
class Streamed:
    """One tensor object of the model: what it is at rest, and what it must be to compute."""

    tensor: torch.Tensor
    rest: torch.Tensor
    device: torch.device
    dtype: torch.dtype
    mapped: Mapped | None
    homes: Sequence[tuple[dict[str, Any], str]] = ()
    """Where it is registered: the tables of the modules that have it, and its name there."""
    users: int = 0

    def become(self, value: torch.Tensor) -> None:
        """Let the model compute with a value; the registered object stays itself where torch can do that."""
        if _takes(self.tensor, value):
            self.tensor.data = value
            return
        if isinstance(self.tensor, torch.nn.Parameter):
            value = torch.nn.Parameter(value, requires_grad=False)
        for table, name in self.homes:
            table[name] = value

    def settle(self) -> None:
        """Put the tensor back as it is at rest."""
        if self.tensor.data_ptr() != self.rest.data_ptr() or self.tensor.dtype != self.rest.dtype:
            self.tensor.data = self.rest
        for table, name in self.homes:
            table[name] = self.tensor

    @property
    def moves(self) -> bool:
        """Whether a copy is needed: another device, another dtype, or bytes at an odd address."""
        odd = self.rest.numel() > 0 and self.rest.data_ptr() % self.rest.element_size() != 0
        return self.rest.device != self.device or self.rest.dtype != self.dtype or odd

    @property
    def nbytes(self) -> int:
        """Bytes while in use."""
        return self.rest.numel() * self.dtype.itemsize

    def copy(self) -> torch.Tensor | None:
        """Return what the module computes with; None when the tensor at rest will do."""
        if self.moves:
            return self.rest.to(self.device, self.dtype, copy=True)
        if self.mapped is not None:
            self.mapped.read_ahead()
        return None


def _takes(tensor: torch.Tensor, value: torch.Tensor) -> bool:
    """Say whether torch can put a value into an existing tensor: not across every two kinds of device."""
    return bool(torch._has_compatible_shallow_copy_type(tensor, value))  # noqa: SLF001  # pyright: ignore[reportPrivateImportUsage]


@dataclass(slots=True)
class Site:
    """A module and the tensors that are there while it runs."""

    path: str
    streamed: list[Streamed] = field(default_factory=list[Streamed])

    @property
    def nbytes(self) -> int:
        """Bytes of the streaming buffer it takes."""
        return sum(one.nbytes for one in self.streamed)


class Stream:
    """Prepares sites ahead of use and keeps what is prepared within a number of bytes."""

    def __init__(self, sites: Sequence[Site], budget: int) -> None:
        self.sites = tuple(sites)
        self._sizes = [site.nbytes for site in sites]
        self.budget = budget or 2 * max(self._sizes, default=0)
        self._next = dict(zip(range(len(sites)), range(1, len(sites)), strict=False))
        self._first = 0
        self._last: int | None = None
        self._ready: dict[int, Future[list[torch.Tensor | None]]] = {}
        self._held = 0
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.RLock()
        self._sides: dict[torch.device, torch.cuda.Stream] = {}

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
        """Bring a site's tensors to where it runs."""
        with self._lock:
            site = self.sites[number]
            if self._last is None:
                self._first = number
            else:
                self._next[self._last] = number
            self._last = number
            prepared = self._ready.pop(number, None)
            copies = self._prepare(site) if prepared is None else prepared.result()
            for one, copy in zip(site.streamed, copies, strict=True):
                if one.users == 0 and copy is not None:
                    one.become(self._usable(copy))
                one.users += 1
            self._held += self._sizes[number]
            self._ahead(self._next.get(number))

    def leave(self, number: int) -> None:
        """Put a site's tensors back to rest."""
        with self._lock:
            for one in self.sites[number].streamed:
                one.users -= 1
                if one.users == 0 and one.moves:
                    one.settle()
            self._held -= self._sizes[number]
            self._ahead(self._next.get(number))

    def close(self) -> None:
        """End the thread and put everything to rest."""
        self.end()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        for site in self.sites:
            for one in site.streamed:
                one.users = 0
                one.settle()

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

    def _prepare(self, site: Site) -> list[torch.Tensor | None]:
        with torch.inference_mode(mode=False), torch.no_grad():
            cards = {one.device for one in site.streamed if one.device.type == "cuda"}
            if not cards or threading.current_thread() is threading.main_thread():
                return [one.copy() for one in site.streamed]
            return [self._beside(one) for one in site.streamed]

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

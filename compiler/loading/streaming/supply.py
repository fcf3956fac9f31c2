"""What is under way to the devices: brought ahead of use, as far as the streaming buffer goes.

Where the driver knows the host's memory, bringing a site means asking the card and going on. Elsewhere
a thread does it: bytes have to come from files, or to change their dtype, first.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

import torch

from ...machine.pages import Ahead
from .carrier import Carrier, needs_of
from .site import Cargo, Load, Site

if TYPE_CHECKING:
    from collections.abc import Collection

    from .lanes import LaneWaits
    from .streamed import Streamed


class Supply:
    """Prepares sites and keeps what is prepared within a number of bytes."""

    def __init__(self, sites: Sequence[Site], budget: int) -> None:
        self.sites = list(sites)
        self.sizes = [site.nbytes for site in sites]
        self.budget = budget or 2 * max(self.sizes, default=0)
        self.held = 0
        """Bytes of what is in use."""
        self.ready: dict[int, tuple[Load, Future[None] | None]] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._carriers: dict[torch.device, Carrier] = {}

    def add(self, site: Site) -> int:
        """Take one more site; returns its number."""
        self.sites.append(site)
        self.sizes.append(site.nbytes)
        return len(self.sites) - 1

    def carrier(self, device: torch.device) -> Carrier:
        """Return what brings bytes to a device; its streaming buffer is made when it is first used."""
        if device not in self._carriers:
            needs = [needs_of(_on(device, site.streamed)) for site in self.sites]
            slack = max(needs, default=0) - max(self.sizes, default=0)  # what aligning takes
            nbytes = min(self.budget + 2 * max(slack, 0), sum(needs))
            self._carriers[device] = Carrier(device, nbytes)
        return self._carriers[device]

    def ahead(self, number: int) -> bool:
        """Start bringing a site if the buffer allows; returns whether it is under way."""
        if number in self.ready:
            return True
        taken = self.held + sum(self.sizes[ready] for ready in self.ready) + self.sizes[number]
        site = self.sites[number]
        if taken > self.budget or any(one.users for one in site.streamed):
            return False
        load = self._begin(site)
        if any(cargo.lot is None for cargo in load.cargo):  # no gap is large enough yet
            load.give_back(used=False)
            return False
        with load.kept():
            self.ready[number] = (load, self._start(site, load))
        return True

    def bring(self, number: int) -> Load:
        """Return what is brought for a site, in time to be used; computing waits for it, not the CPU."""
        site, tally, start = self.sites[number], self.sites[number].tally, time.perf_counter()
        load = self._came_ahead(number)
        tally.calls += 1
        tally.ahead += load is not None
        here = load or self._begin(site)
        with here.kept():
            if load is None:
                self._fill(site, here)
            here.join()
        tally.nbytes += site.moved
        tally.seconds += time.perf_counter() - start
        return here

    def drop(self, keep: Collection[int] = (), *, rest: bool = False) -> None:
        """Give up what was brought ahead, except for some sites; at ``rest`` no thread works after it."""
        for number in [number for number in self.ready if number not in keep]:
            load, future = self.ready.pop(number)
            writes = bool(load.cargo)  # to memory that is handed out again
            if future is not None and not future.cancel() and (rest or writes):
                wait([future])
            load.give_back(used=False)

    def room(self, wanted: int) -> int:
        """Return the bytes of the buffer that nothing has; what came ahead of use makes room if it must."""
        if self.budget - self.held - sum(self.sizes[ready] for ready in self.ready) < wanted:
            self.drop()
        return max(0, self.budget - self.held - sum(self.sizes[ready] for ready in self.ready))

    def waits(self) -> dict[torch.device, LaneWaits]:
        """Return what tells how long each device's computing has waited for copies since last asked."""
        return {device: carrier.lane.waits() for device, carrier in self._carriers.items()}

    def close(self) -> None:
        """End the thread and let go of the buffers."""
        self.drop(rest=True)
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        for carrier in self._carriers.values():
            carrier.lane.settle()
            carrier.arena.drop()

    def forget(self) -> None:
        """Be as new in a child of the process: its threads, and what they were bringing, are not there."""
        self.ready, self._pool, self._carriers, self.held = {}, None, {}, 0

    def _came_ahead(self, number: int) -> Load | None:
        """Return what came ahead for a site, if it is what is at rest now; what failed is tried again."""
        load, future = self.ready.pop(number, (None, None))
        if load is None:
            return None
        with load.kept():
            try:
                failed = future is not None and future.exception() is not None
            finally:
                wait([] if future is None else [future])  # after an interrupt it may still be at it
            if not failed and load.is_current(self.sites[number]):
                return load
        load.give_back(used=False)
        return None

    def _start(self, site: Site, load: Load) -> Future[None] | None:
        if site.quick:
            self._fill(site, load)
            return None
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="compile-plan-prefetch")
        return self._pool.submit(self._fill, site, load)

    def _begin(self, site: Site) -> Load:
        """Take memory for a site on every device it runs on."""
        load = Load()
        with load.kept():
            for device in {one.device: None for one in site.streamed if one.device.type != "cpu"}:
                carrier = self.carrier(device)
                lot = carrier.arena.take(needs_of(_on(device, site.streamed)))
                load.cargo.append(Cargo(carrier, lot))
        return load

    def _fill(self, site: Site, load: Load) -> None:
        streamed = list(site.streamed)  # a forward may exchange one meanwhile: then this is not used
        ahead = Ahead(span for one in streamed for span in one.spans)
        with torch.inference_mode(mode=False), torch.no_grad(), ahead:
            stamps = [one.stamp for one in streamed]
            values: dict[int, torch.Tensor | None] = {
                id(one): one.copy() for one in streamed if one.device.type == "cpu"
            }
            for cargo in load.cargo:
                there, mark = cargo.carrier.bring(_on(cargo.carrier.device, streamed), cargo.lot)
                values |= there
                here = [one for one in streamed if one.device == cargo.carrier.device]
                values |= {id(one): one.put_together(values) for one in here if one.parts}
                load.marks.append((cargo.carrier.lane, mark))
        rows = zip(streamed, stamps, strict=True)
        load.copies = [(one, stamp, values[id(one)]) for one, stamp in rows]


def _on(device: torch.device, streamed: Sequence[Streamed]) -> list[Streamed]:
    """Return what is copied to a device."""
    return [leaf for one in streamed if one.device == device for leaf in one.leaves]

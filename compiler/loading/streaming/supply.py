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

from ..pages import Ahead
from .carrier import Carrier, needs_of
from .site import Cargo, Load, Site

if TYPE_CHECKING:
    from collections.abc import Collection

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
        self.ready[number] = (load, self._start(site, load))
        return True

    def bring(self, number: int) -> Load:
        """Return what is brought for a site, in time to be used; computing waits for it, not the CPU."""
        site, tally, start = self.sites[number], self.sites[number].tally, time.perf_counter()
        load = self._prepared(number)
        tally.calls += 1
        if load is not None and load.is_current(site):
            tally.ahead += 1
        else:
            if load is not None:
                load.give_back(used=False)
            load = self._now(site)
        tally.nbytes += site.moved
        load.join()
        tally.seconds += time.perf_counter() - start
        return load

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

    def waited(self) -> dict[torch.device, float]:
        """Return the seconds that each device's computing has waited for copies since last asked."""
        return {device: carrier.lane.waited() for device, carrier in self._carriers.items()}

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

    def _prepared(self, number: int) -> Load | None:
        load, future = self.ready.pop(number, (None, None))
        if future is not None and load is not None:
            try:
                future.result()
            except BaseException:
                wait([future])
                load.give_back(used=False)
                raise
        return load

    def _start(self, site: Site, load: Load) -> Future[None] | None:
        if site.quick:
            self._fill(site, load)
            return None
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="compile-plan-prefetch")
        return self._pool.submit(self._fill, site, load)

    def _now(self, site: Site) -> Load:
        load = self._begin(site)
        try:
            self._fill(site, load)
        except BaseException:
            load.give_back(used=False)
            raise
        return load

    def _begin(self, site: Site) -> Load:
        """Take memory for a site on every device it runs on."""
        cargo: list[Cargo] = []
        for device in {one.device: None for one in site.streamed if one.device.type != "cpu"}:
            carrier = self.carrier(device)
            lot = carrier.arena.take(needs_of(_on(device, site.streamed)))
            cargo.append(Cargo(carrier, lot))
        return Load([], cargo)

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

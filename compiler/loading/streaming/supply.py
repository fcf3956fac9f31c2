"""What is under way to the devices: brought ahead of use, as far as the streaming buffer of each goes.

Where the driver knows the host's memory, bringing a site means asking the card and going on. Elsewhere
a thread does it: bytes have to come from files, or to change their dtype, first.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

import torch

from ...machine.pages import Ahead
from .carrier import Carrier, needs_of
from .site import Cargo, Load, Site

if TYPE_CHECKING:
    from collections.abc import Collection, KeysView

    from .lanes import LaneWaits
    from .streamed import Streamed


class Supply:
    """Prepares sites and keeps what is prepared for a device within a number of bytes."""

    def __init__(self, sites: Sequence[Site], budgets: Mapping[torch.device, int]) -> None:
        """Take the bytes of each device's streaming buffer; where none are told, two of the largest fit."""
        self.sites = list[Site]()
        self.sizes = list[Counter[torch.device]]()
        self.held: Counter[torch.device] = Counter()
        """Bytes of what is in use."""
        self.ready: dict[int, tuple[Load, Future[None] | None]] = {}
        self._largest: dict[torch.device, int] = {}
        """Bytes of the largest site on each device."""
        self._budgets: dict[torch.device, int] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._carriers: dict[torch.device, Carrier] = {}
        for site in sites:
            self.add(site)
        self._budgets |= budgets

    @property
    def devices(self) -> KeysView[torch.device]:
        """Where anything is brought to."""
        return self._largest.keys()

    def budget(self, device: torch.device) -> int:
        """Return the bytes of a device's streaming buffer."""
        return self._budgets.get(device) or 2 * self._largest.get(device, 0)

    def taken(self, device: torch.device) -> int:
        """Return how many of them something has."""
        return self.held[device] + sum(self.sizes[ready][device] for ready in self.ready)

    def add(self, site: Site) -> int:
        """Take one more site; returns its number."""
        self.sites.append(site)
        self.sizes.append(Counter())
        self.note(len(self.sites) - 1)
        return len(self.sites) - 1

    def note(self, number: int) -> None:
        """Take in what a site has now; where it is the largest, its device's buffer grows with it.

        Else nothing could be brought ahead any more to a buffer that was made for the largest site.
        """
        self.sizes[number] = self.sites[number].sizes
        for device, size in self.sizes[number].items():
            if device not in self._largest and self._pool is not None:  # the next has a thread for it, too
                self._pool.shutdown(wait=False)
                self._pool = None
            more = size - self._largest.setdefault(device, 0)
            if more <= 0:
                continue
            self._largest[device] = size
            if self._budgets.get(device):
                self._budgets[device] += more
            if device in self._carriers:
                self._carriers[device].arena.grow(self._room(device))

    def carrier(self, device: torch.device) -> Carrier:
        """Return what brings bytes to a device; its streaming buffer is made when it is first used."""
        if device not in self._carriers:
            self._carriers[device] = Carrier(device, self._room(device))
        return self._carriers[device]

    def _room(self, device: torch.device) -> int:
        """Return the bytes of a device's streaming buffer with what aligning takes."""
        needs = [needs_of(_on(device, site.streamed)) for site in self.sites]
        slack = max(needs, default=0) - self._largest.get(device, 0)
        return min(self.budget(device) + 2 * max(slack, 0), sum(needs))

    def ahead(self, number: int) -> bool:
        """Start bringing a site if the buffers allow; returns whether it is under way."""
        if number in self.ready:
            return True
        site, sizes = self.sites[number], self.sizes[number].items()
        full = any(self.taken(device) + nbytes > self.budget(device) for device, nbytes in sizes)
        if full or any(one.users for one in site.streamed):
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

    def room(self, device: torch.device, wanted: int) -> int:
        """Return the bytes of a buffer that nothing has; what came ahead of use makes room if it must."""
        if self.budget(device) - self.taken(device) < wanted:
            self.drop()
        return max(0, self.budget(device) - self.taken(device))

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
        self.ready, self._pool, self._carriers, self.held = {}, None, {}, Counter()

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
            self._pool = ThreadPoolExecutor(len(self.devices), thread_name_prefix="compile-plan-prefetch")
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

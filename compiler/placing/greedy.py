"""The greedy loop: units in order, each to the first device with room, no device returned to.

Where it is stuck it asks rewrite rules: open what is tied to the unit, open the unit, bring a later
one forward. What fits, what is tied and what stays free is for its `Rules` to say.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from .frontier import Worklist


class Rules(Protocol):
    """What placing asks while it goes; sizes and rooms are in one unit of the rules' own."""

    def size(self, item: int) -> int:
        """Return what an item alone takes."""
        ...

    def partners(self, item: int, work: Worklist) -> tuple[list[int], int]:
        """Return the waiting items that must go along, and what they add."""
        ...

    def room(self, device: int, used: list[int]) -> int | None:
        """Return what is left on a device before anything is reserved; None is unlimited."""
        ...

    def reserved(self, device: int) -> int:
        """Return what the device must keep free at this moment."""
        ...

    def first_device(self, item: int, current: int) -> int:
        """Return the first device at or after the current one that may hold the item."""
        ...

    def forward(self, work: Worklist, device: int, needed: int) -> int | None:
        """Return a waiting item to put on an empty device instead of one that needs more."""
        ...

    def taken(self, item: int) -> None:
        """Hear that an item is about to be decided."""
        ...

    def opened(self) -> None:
        """Hear that an item was replaced by its parts."""
        ...

    def placed(self, item: int, *, along: bool) -> None:
        """Hear that an item was placed, perhaps only along with another."""
        ...


@dataclass(slots=True)
class Greedy:
    """One run of the loop over devices ``0..n-1``."""

    rules: Rules
    work: Worklist
    used: list[int]
    current: int = 0
    places: dict[int, int] = field(default_factory=dict[int, int])
    """Device of every item that has one, in order of decision."""
    unplaced: list[int] = field(default_factory=list[int])
    minima: dict[int, int] = field(default_factory=dict[int, int])
    """What would have been enough for each device that was left empty."""
    later: dict[int, int] = field(default_factory=dict[int, int])
    """Items that may only go to devices from this one on."""

    def run(self) -> None:
        """Decide every waiting item."""
        while (item := self.work.pop()) is not None:
            self.rules.taken(item)
            device = self.rules.first_device(item, max(self.current, self.later.get(item, 0)))
            if self.later.get(item, 0) <= device < len(self.used):
                self._decide(item, device)
            else:  # also what is tied to a pin on a device that has no room for it
                self.unplaced.append(item)
                self.work.done(item)

    def _decide(self, item: int, device: int) -> None:
        size, reserved = self.rules.size(item), self.rules.reserved(device)
        partners, extra = self.rules.partners(item, self.work)
        left = self.rules.room(device, self.used)
        if left is None or size + extra <= left - reserved:
            self.used[device] += size + extra
            self._put(item, partners, device)
        elif partners and size <= left - reserved and any(map(self.work.open, partners)):
            self.work.push(item)
            self.rules.opened()
        elif size >= left - reserved and self.work.open(item):
            self.rules.opened()
        elif (found := self._forward(device, size + extra)) is not None:
            self.work.push(item)
            self.work.push(found)
        else:
            self._pass_over(item, device, size + extra, reserved)

    def _forward(self, device: int, needed: int) -> int | None:
        return self.rules.forward(self.work, device, needed) if self.used[device] == 0 else None

    def _put(self, item: int, partners: list[int], device: int) -> None:
        for one in dict.fromkeys((item, *partners)):
            self.places[one] = device
            self.work.done(one)
            self.rules.placed(one, along=one != item)

    def _pass_over(self, item: int, device: int, needed: int, reserved: int) -> None:
        if self.used[device] == 0:
            self.minima[device] = needed + reserved
        if device == self.current:
            self.used[device] += reserved
            self.current += 1
        else:
            self.later[item] = device + 1
        self.work.push(item)


def bring_forward(rules: Rules, work: Worklist, limit: int) -> int | None:
    """Return the first waiting item that fits, looking into what can be opened; None if none does.

    What contains the item is opened where it waits, so that the item can be placed on its own.
    """
    if limit < 0:
        return None
    probe = work.copy()
    while (item := probe.pop()) is not None:
        if rules.size(item) + rules.partners(item, probe)[1] <= limit:
            work.open_above(item)
            return item
        if not probe.open(item):
            probe.done(item)
    return None

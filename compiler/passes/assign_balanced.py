"""Place units in order on budgets that spread the model evenly, as transformers' `balanced` means it.

Every accelerator but the last may hold an even share and a little more, so that the pieces come out
even; the last one keeps its whole budget, in case they do not. Where such budgets would spill, the plan
is left as it was, for `assign-greedy` to fill the whole ones.

Before:
    plan 1
    model "m"
    device cuda:0 memory 8KiB
    device cuda:1 memory 8KiB
    device cpu memory 8KiB
    unit a
    unit b
    unit c
    unit d
    module a : Linear 1KiB
    module b : Linear 1KiB
    module c : Linear 1KiB
    module d : Linear 1KiB

After:
    plan 1
    model "m"
    device cuda:0 memory 8KiB
    device cuda:1 memory 8KiB
    device cpu memory 8KiB
    place a on cuda:0 added
    place b on cuda:0 added
    place c on cuda:1 added
    place d on cuda:1 added
    module a : Linear 1KiB
    module b : Linear 1KiB
    module c : Linear 1KiB
    module d : Linear 1KiB
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Final

from ...ir import Device, Diagnostics, ModuleTree, Plan, Reason, is_accelerator
from ..placing.attempts import place_units, spills
from ..placing.first_fit import limits_of, sizes_with_demands
from ..placing.frontier import item_bytes, whole_modules
from ..placing.terms import terms_of
from ..placing.visiting import around_visits
from .assign_greedy import first_fit
from .pipeline import Fact
from .rewrite_fallbacks import refill

_STEPS: Final = 7
"""Halvings: what is found is within a hundredth of the range it was looked for in."""


@dataclass(frozen=True, slots=True)
class AssignBalanced:
    """``low_zero`` spares the first accelerator, which generating text needs for other things."""

    name: ClassVar[str] = "assign-balanced"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.SIZED, Fact.TIED, Fact.OPENABLE})
    gives: ClassVar[frozenset[Fact]] = frozenset()
    low_zero: bool = False

    def run(self, plan: Plan, diagnostics: Diagnostics) -> Plan:
        """Return the plan with a place for every unit, or as it was where even budgets cannot hold it."""
        return around_visits(plan, lambda around: self._place(around, diagnostics))

    def _place(self, plan: Plan, diagnostics: Diagnostics) -> Plan:
        del diagnostics
        tree = plan.tree
        if tree is None or all(unit.store is not None for unit in plan.units):
            return plan

        def place(devices: tuple[Device, ...]) -> Plan | None:
            there = replace(plan, devices=devices)
            placed = refill(place_units(there, tree, first_fit(there, tree, {})), tree)
            return None if spills(placed) else placed

        found = spread(plan, place, low_zero=self.low_zero)
        if found is None:
            return plan
        units = (
            unit if unit.reason is Reason.WRITTEN else replace(unit, reason=Reason.BALANCED)
            for unit in found.units
        )
        return replace(plan, units=tuple(units))


def balanced_budgets(plan: Plan, low_zero: bool) -> tuple[Device, ...]:  # noqa: FBT001  # the named strategy
    """Return the devices with smaller budgets; ``low_zero`` spares the first accelerator.

    Accelerators without a budget take no share, whatever their numbers are. What a device keeps free
    (margins, reserves) comes on top of its share.
    """
    shares = _shares(plan, low_zero=low_zero)
    return plan.devices if shares is None else shares.budgets(shares.caps(shares.widest))


def spread(plan: Plan, place: Callable[[tuple[Device, ...]], Plan | None], *, low_zero: bool) -> Plan | None:
    """Return what ``place`` makes of the most even budgets that hold everything; None if none do.

    ``place`` returns None where something spills.
    """
    shares = _shares(plan, low_zero=low_zero)
    if shares is None:
        return place(plan.devices)
    best = place(shares.budgets(shares.caps(shares.widest)))
    if best is not None:
        tightest = _least(
            shares.least, shares.widest, lambda share: place(shares.budgets(shares.caps(share, last=True)))
        )
        return tightest or best
    if shares.spared is None or (best := place(plan.devices)) is None:
        return None
    spared, rooms = shares.spared, shares.rooms
    rest = max(0, shares.total - sum(rooms[i] for i in shares.sharing))
    return _least(rest, rooms[spared], lambda cap: place(shares.budgets(rooms | {spared: cap}))) or best


def _least(low: int, high: int, place: Callable[[int], Plan | None]) -> Plan | None:
    """Return the plan of the least number that has one, by halving; None where none was found."""
    best = None
    for _ in range(_STEPS):
        middle = (low + high) // 2
        found = place(middle)
        if found is None:
            low = middle
        else:
            best, high = found, middle
    return best


@dataclass(frozen=True, slots=True)
class _Shares:
    """What is to be shared out, in bytes by device index."""

    devices: tuple[Device, ...]
    rooms: dict[int, int]
    spared: int | None
    total: int
    slack: int

    @property
    def sharing(self) -> list[int]:
        """Return the devices that take an even share."""
        return [i for i in self.rooms if i != self.spared]

    @property
    def widest(self) -> int:
        """Return the share that leaves room for pieces to come out uneven."""
        return self.total // len(self.sharing) + self.slack

    @property
    def least(self) -> int:
        """Return the share with which no byte is left over."""
        spared = 0 if self.spared is None else self.caps(self.widest)[self.spared]
        return (self.total - spared) // len(self.sharing)

    def caps(self, share: int, *, last: bool = False) -> dict[int, int]:
        """Return what each device may hold; the spared one what the others cannot at the widest share."""
        capped = self.sharing if last else self.sharing[:-1]
        caps = self.rooms | {i: min(share, self.rooms[i]) for i in capped}
        if self.spared is not None:
            wide = [min(self.widest, self.rooms[i]) for i in self.sharing[:-1]]
            rest = self.total - sum(wide) - self.rooms[self.sharing[-1]]
            caps[self.spared] = min(max(0, rest), self.rooms[self.spared])
        return caps

    def budgets(self, caps: dict[int, int]) -> tuple[Device, ...]:
        """Return the devices with budgets smaller by what their caps are smaller."""
        return tuple(
            replace(device, memory=(device.memory or 0) - self.rooms[i] + caps[i]) if i in caps else device
            for i, device in enumerate(self.devices)
        )


def _shares(plan: Plan, *, low_zero: bool) -> _Shares | None:
    """Return what there is to share; None where fewer than two accelerators have a budget."""
    sharing = [i for i, device in enumerate(plan.devices) if is_accelerator(device.name) and device.memory]
    if plan.tree is None or plan.tree.nbytes is None or len(sharing) < 2:
        return None
    terms = terms_of(plan, plan.tree)
    limits = limits_of(terms)
    return _Shares(
        devices=plan.devices,
        rooms={i: limits[i] or 0 for i in sharing},
        spared=sharing[0] if low_zero else None,
        total=sum(sizes_with_demands(terms, plan.tree)),
        slack=_slack(plan, plan.tree),
    )


def _slack(plan: Plan, tree: ModuleTree) -> int:
    """Return 1.25 times the largest module that is not split: what a share may be off by."""
    whole, largest, module = whole_modules(tree, plan.constraints), 0, 1
    while module < len(tree):
        if whole[module]:
            largest = max(largest, item_bytes(tree, module))
            module = tree.ends[module]
        else:
            own = tree.own_tensors(module)
            largest = max(largest, tree.prefix_bytes[own.stop] - tree.prefix_bytes[own.start])
            module += 1
    return largest * 5 // 4

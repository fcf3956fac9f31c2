"""Whole placements made by the greedy loop, and how they become units of a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Final

from ...ir import CPU, ModuleTree, Never, Plan, Reason, Unit, device_type, is_accelerator
from .first_fit import run_device
from .frontier import (
    Worklist,
    item_at,
    item_path,
    item_tensors,
    merge_units,
    opened,
    split_modules,
    whole_modules,
)
from .greedy import Greedy, Rules
from .terms import terms_of

_NOWHERE: Final = -1


@dataclass(frozen=True, slots=True)
class Attempt:
    """What one run decided: the device index of each item, and what it would have liked to have."""

    places: dict[int, int]
    unplaced: tuple[int, ...] = ()
    minima: dict[int, int] = field(default_factory=dict[int, int])
    """Bytes that would have been enough for each device left empty."""
    homeless_buffers: int = 0
    """Bytes of buffers of offloaded modules that no accelerator has room for."""


def with_streaming(
    plan: Plan, tree: ModuleTree, place: Callable[[dict[int, int]], Attempt]
) -> tuple[Attempt, bool]:
    """Return the first placement that keeps free what it streams itself, starting with nothing kept.

    What was kept once stays kept, so this ends; the second value says whether it ended well.
    """
    streaming: dict[int, int] = {}
    attempt = place(streaming)
    for _ in range(1 + sum(is_accelerator(device.name) for device in plan.devices)):
        needed = streamed(plan, tree, attempt.places)
        if all(streaming.get(device, 0) >= nbytes for device, nbytes in needed.items()):
            return attempt, True
        streaming = {d: max(streaming.get(d, 0), needed.get(d, 0)) for d in (*streaming, *needed)}
        attempt = place(streaming)
    return attempt, False


def start(rules: Rules, work: Worklist, fixed: dict[int, int], devices: int) -> Greedy:
    """Return the greedy loop with the fixed items in their places."""
    greedy = Greedy(rules, work, [0] * devices, places=dict(fixed))
    for item, device in fixed.items():
        greedy.used[device] += rules.size(item)
    return greedy


def fixed_items(plan: Plan, tree: ModuleTree) -> dict[int, int]:
    """Return the device index of every unit that has its place already."""
    index = {device.name: i for i, device in enumerate(plan.devices)}
    placed = [(unit.path, index[unit.store]) for unit in plan.units if unit.store in index]
    return {item: device for path, device in placed if (item := item_at(tree, path)) is not None}


def place_units(plan: Plan, tree: ModuleTree, attempt: Attempt, moved: Reason = Reason.GREEDY) -> Plan:
    """Return the plan with an attempt's places, in tree order and the fewest units.

    Units that are where they were stay as they are; the others are there because they were ``moved``.
    """
    given = {
        item: unit for unit in plan.units if unit.store and (item := item_at(tree, unit.path)) is not None
    }
    names = [device.name for device in plan.devices]
    runner_of = _runners(plan, tree, attempt.places)
    units: list[Unit] = []
    homeless = list(attempt.unplaced)
    for item, device in attempt.places.items():
        old, store = given.get(item), names[device]
        if old is not None and old.store == store and (old.reason is Reason.WRITTEN or is_accelerator(store)):
            units.append(old)
        elif is_accelerator(store):
            units.append(Unit(item_path(tree, item), store, store, moved))
        elif (runner := runner_of(item, device)) is None or runner == _NOWHERE:
            homeless.append(item)
        else:
            spilled = Reason.SPILLED if is_accelerator(names[runner]) else moved
            units.append(Unit(item_path(tree, item), store, names[runner], spilled))
    if not homeless:
        return replace(plan, units=merge_units(tree, units, split_modules(tree, plan.constraints)))
    units += [Unit(item_path(tree, item)) for item in homeless]
    return replace(plan, units=tuple(sorted(units, key=lambda unit: tree.covered(unit.path).start)))


def streamed(plan: Plan, tree: ModuleTree, places: dict[int, int]) -> dict[int, int]:
    """Return the bytes a device must keep free for the largest part that is streamed to it."""
    off = {i for i, device in enumerate(plan.devices) if not is_accelerator(device.name)}
    items = [item for item, device in places.items() if device in off]
    runner_of = _runners(plan, tree, places)
    whole, found = whole_modules(tree, plan.constraints), dict[int, int]()
    for item in items:
        runner = runner_of(item, places[item])
        if runner is not None and runner != _NOWHERE and runner not in off:
            found[runner] = max(found.get(runner, 0), _largest_part(tree, whole, item))
    return found


def _runners(plan: Plan, tree: ModuleTree, places: Mapping[int, int]) -> Callable[[int, int], int | None]:
    """Return what tells where an item runs that is stored on a host: `_NOWHERE` where rules leave nothing."""
    stores = frozenset(places.values())
    plain = cache(partial(run_device, plan.devices, stores))
    if not any(isinstance(rule, Never) for rule in plan.constraints):
        return lambda _item, store: plain(store)
    terms = terms_of(plan, tree)

    def ruled(item: int, store: int) -> int | None:
        tensors = item_tensors(tree, item)
        if not terms.resident.isdisjoint(tensors):  # it runs where it is stored or nowhere
            return store if device_type(plan.devices[store].name) == CPU else _NOWHERE
        banned = frozenset[int]().union(*(terms.banned.get(tensor, ()) for tensor in tensors))
        runner = plain(store, banned)
        return _NOWHERE if runner is None and banned else runner

    return ruled


def _largest_part(tree: ModuleTree, whole: bytearray, item: int) -> int:
    """Return the bytes of the largest part of an item that is not opened any further."""
    before, largest, stack = tree.prefix_bytes, 0, [item]
    while stack:
        part = stack.pop()
        if part < 0 or whole[part]:
            tensors = item_tensors(tree, part)
            largest = max(largest, before[tensors.stop] - before[tensors.start])
        else:
            stack += opened(tree, part)
    return largest


def spills(plan: Plan) -> bool:
    """Say whether something has no place, or is stored where nothing computes it.

    The CPU's memory is such a place only beside accelerators to use. What a person wrote is no spill.
    """
    usable = any(is_accelerator(device.name) and device.memory != 0 for device in plan.devices)
    decided = (unit for unit in plan.units if unit.reason is not Reason.WRITTEN)
    return any(
        unit.store is None or unit.store != unit.run or (usable and not is_accelerator(unit.store))
        for unit in decided
    )

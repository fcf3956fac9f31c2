"""Whole placements made by the greedy loop: accelerate's, and first fit in order.

Accelerate's places are taken wherever they are lawful; where it would crash, tear ties apart or fill
a device beyond its budget, first fit takes over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import accumulate, chain

from ..ir import (
    CPU,
    DISK,
    Device,
    Diagnostics,
    ModuleTree,
    Plan,
    Reason,
    Role,
    Unit,
    device_type,
    is_accelerator,
)
from .accelerate_rules import AccelerateRules, buffer_sizes
from .accelerate_ties import OutOfReach
from .first_fit import FirstFitRules, limits_of
from .frontier import Worklist, item_at, item_path, item_tensors, merge_units, opened, whole_modules
from .greedy import Greedy
from .passes.emit_warnings import left_empty


@dataclass(frozen=True, slots=True)
class Attempt:
    """What one run decided: the device index of each item, and what it would have liked to have."""

    places: dict[int, int]
    unplaced: tuple[int, ...] = ()
    minima: dict[int, int] = field(default_factory=dict[int, int])
    """Bytes that would have been enough for each device left empty."""
    homeless_buffers: int = 0
    """Bytes of buffers of offloaded modules that no accelerator has room for."""


def like_accelerate(plan: Plan, tree: ModuleTree, diagnostics: Diagnostics, *, fallback: bool) -> Plan:
    """Return the plan with accelerate's places; a disk is added where it is the last resort."""
    start = replace(plan, devices=with_disk(plan.devices))
    attempt = attempt_accelerate(start, tree, fallback=fallback)
    for device, nbytes in attempt.minima.items():
        diagnostics.add(left_empty(start.devices[device].name, nbytes))
    placed = place_units(start, tree, attempt)
    named = {unit.store for unit in placed.units} | {device.name for device in plan.devices}
    return replace(placed, devices=tuple(device for device in placed.devices if device.name in named))


def first_fit(plan: Plan, tree: ModuleTree) -> Plan:
    """Return the plan with first fit's places; what fits nowhere stays unplaced."""
    return place_units(plan, tree, attempt_first_fit(plan, tree))


def with_disk(devices: tuple[Device, ...]) -> tuple[Device, ...]:
    """Return the devices with a disk among them: accelerate always falls back on one, of any size."""
    unlimited = tuple(replace(d, memory=None) if device_type(d.name) == DISK else d for d in devices)
    if any(device_type(device.name) == DISK for device in devices):
        return unlimited
    return (*unlimited, Device(DISK, None, origin="the last resort"))


def attempt_accelerate(plan: Plan, tree: ModuleTree, *, fallback: bool) -> Attempt:
    """Place by accelerate's rules; by first fit where those lead to no lawful placement."""
    limits = [None if limit is None else 8 * limit for limit in limits_of(plan)]
    fixed = _fixed(plan, tree)
    rules = AccelerateRules(plan, tree, limits, fallback=fallback)
    work = Worklist(tree, _first_items(rules, tree, fixed), rules.parts)
    greedy = Greedy(rules, work, [0] * len(limits), places=dict(fixed))
    for item, device in fixed.items():
        greedy.used[device] += rules.size(item)
    try:
        greedy.run()
    except OutOfReach:
        return attempt_first_fit(plan, tree)
    places = _complete(tree, rules.counted, greedy.places, limits)
    if not _is_lawful(plan, tree, rules.counted, places, limits):
        return attempt_first_fit(plan, tree)
    minima = {device: -(-size // 8) for device, size in greedy.minima.items()}
    return Attempt(places, (), minima, _homeless_buffers(plan, tree, greedy, rules.along, limits))


def attempt_first_fit(plan: Plan, tree: ModuleTree) -> Attempt:
    """Place in order without reserving anything; again with room to stream in, if something is streamed."""
    streaming: dict[int, int] = {}
    fixed = _fixed(plan, tree)
    for _ in range(3):
        rules = FirstFitRules(plan, tree, fixed, streaming)
        units = [item for unit in plan.units if (item := item_at(tree, unit.path)) is not None] or opened(
            tree, 0
        )
        work = Worklist(tree, [item for item in units if item not in fixed], rules.parts)
        greedy = Greedy(rules, work, [0] * len(plan.devices), places=dict(fixed))
        for item, device in fixed.items():
            greedy.used[device] += rules.size(item)
        greedy.run()
        needed = streamed(plan, tree, greedy.places)
        if all(streaming.get(device, 0) >= nbytes for device, nbytes in needed.items()):
            break
        streaming = needed
    return Attempt(greedy.places, tuple(greedy.unplaced), greedy.minima)


def run_device(devices: tuple[Device, ...], stores: Iterable[int]) -> int | None:
    """Return what streamed units run on: the first accelerator that holds something, else the CPU."""
    held = set(stores)
    mains = [i for i, device in enumerate(devices) if is_accelerator(device.name)]
    holding = [i for i in mains if i in held]
    usable = [i for i in mains if devices[i].memory != 0]
    hosts = [i for i, device in enumerate(devices) if device_type(device.name) == CPU]
    return next(iter((*holding, *usable, *hosts)), None)


def place_units(plan: Plan, tree: ModuleTree, attempt: Attempt) -> Plan:
    """Return the plan with an attempt's places, in tree order and the fewest units."""
    given = {
        item: unit for unit in plan.units if unit.store and (item := item_at(tree, unit.path)) is not None
    }
    names = [device.name for device in plan.devices]
    runner = run_device(plan.devices, attempt.places.values())
    on_host = CPU if runner is None else names[runner]
    units: list[Unit] = []
    for item, device in attempt.places.items():
        store = names[device]
        main = is_accelerator(store)
        place = Unit(
            item_path(tree, item),
            store,
            store if main else on_host,
            Reason.GREEDY if main else Reason.SPILLED,
        )
        units.append(given.get(item, place))
    if not attempt.unplaced:
        return replace(plan, units=merge_units(tree, units))
    units += [Unit(item_path(tree, item)) for item in attempt.unplaced]
    return replace(plan, units=tuple(sorted(units, key=lambda unit: tree.covered(unit.path).start)))


def _fixed(plan: Plan, tree: ModuleTree) -> dict[int, int]:
    """Return the device index of every unit that has its place already."""
    index = {device.name: i for i, device in enumerate(plan.devices)}
    placed = [unit for unit in plan.units if unit.store in index]
    return {
        item: index[unit.store]
        for unit in placed
        if unit.store is not None and (item := item_at(tree, unit.path)) is not None
    }


def _first_items(rules: AccelerateRules, tree: ModuleTree, fixed: dict[int, int]) -> list[int]:
    """Return accelerate's first items without those that are pinned, opened above pins."""
    above: set[int] = set()
    for item in fixed:
        module = tree.parents[item] if item >= 0 else tree.owners[~item]
        while module > 0 and module not in above:
            above.add(module)
            module = tree.parents[module]
    items: list[int] = []
    stack = rules.items[::-1]
    while stack:
        item = stack.pop()
        if item in above:
            stack += reversed(opened(tree, item))
        elif item not in fixed:
            items.append(item)
    return items


def _complete(
    tree: ModuleTree, counted: list[int], places: dict[int, int], limits: list[int | None]
) -> dict[int, int]:
    """Return the places with those tensors added that accelerate's rules leave out.

    A buffer goes where its module's other parts are, or to the next device with room.
    """
    device_of = [-1] * len(tree.tensor_names)
    for item, device in places.items():
        for tensor in item_tensors(tree, item):
            device_of[tensor] = device
    missing = [tensor for tensor, device in enumerate(device_of) if device < 0]
    if not missing:
        return places
    used = [0] * len(limits)
    for tensor, device in enumerate(device_of):
        used[device] += counted[tensor] if device >= 0 else 0
    places = dict(places)
    for tensor in missing:
        device = next(
            device
            for device in chain(_near(tree, device_of, tensor), range(len(limits)))
            if _has_room(limits[device], used[device], counted[tensor])
        )
        places[~tensor] = device_of[tensor] = device
        used[device] += counted[tensor]
    return places


def _near(tree: ModuleTree, device_of: list[int], tensor: int) -> Iterator[int]:
    """Yield the device of what a tensor shares storage with, then those of its module's other parts."""
    tried: set[int] = {-1}
    module = tree.owners[tensor]
    same = tree.storages[tensor]
    candidates = chain([same], chain.from_iterable(map(tree.tensors, _upwards(tree, module))))
    for other in candidates:
        if device_of[other] not in tried:
            tried.add(device_of[other])
            yield device_of[other]


def _upwards(tree: ModuleTree, module: int) -> Iterator[int]:
    while module >= 0:
        yield module
        module = tree.parents[module]


def _has_room(limit: int | None, used: int, nbytes: int) -> bool:
    return limit is None or nbytes == 0 or used + nbytes <= limit


def _is_lawful(
    plan: Plan, tree: ModuleTree, counted: list[int], places: dict[int, int], limits: list[int | None]
) -> bool:
    """Say whether ties are together and every device holds no more than its budget."""
    device_of = [-1] * len(tree.tensor_names)
    used = [0] * len(limits)
    totals = list(accumulate(counted, initial=0))
    for item, device in places.items():
        tensors = item_tensors(tree, item)
        used[device] += totals[tensors.stop] - totals[tensors.start]
        if plan.ties:
            device_of[tensors.start : tensors.stop] = [device] * len(tensors)
    if any(limit is not None and nbytes > max(limit, 0) for nbytes, limit in zip(used, limits, strict=True)):
        return False
    groups = ([device_of[tree.tensor_index[p]] for p in tie.tensors] for tie in plan.ties)
    return all(len(set(group)) == 1 for group in groups)


def _homeless_buffers(
    plan: Plan, tree: ModuleTree, greedy: Greedy, along: set[int], limits: list[int | None]
) -> int:
    """Return the bytes of offloaded buffers if no accelerator has that much left.

    Buffers of modules that were placed along with a tied one are not counted, as in accelerate.
    """
    off = {i for i, device in enumerate(plan.devices) if not is_accelerator(device.name)}
    mains = [i for i in range(len(plan.devices)) if i not in off]
    if not mains or all(role is Role.PARAMETER for role in tree.roles):
        return 0
    total = sum(buffer_sizes(tree, i) for i, d in greedy.places.items() if d in off and i not in along)
    roomy = any(limit is None or limit >= total + greedy.used[i] for i in mains for limit in (limits[i],))
    return 0 if roomy else -(-total // 8)


def streamed(plan: Plan, tree: ModuleTree, places: dict[int, int]) -> dict[int, int]:
    """Return the bytes a device must keep free for the largest part that is streamed to it."""
    off = {i for i, device in enumerate(plan.devices) if not is_accelerator(device.name)}
    items = [item for item, device in places.items() if device in off]
    runner = run_device(plan.devices, places.values())
    if not items or runner is None or runner in off:
        return {}
    whole = whole_modules(tree, plan.constraints)
    return {runner: max(_largest_part(tree, whole, item) for item in items)}


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

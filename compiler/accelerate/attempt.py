"""Placements as accelerate makes them, wherever those are lawful.

Where accelerate would crash, tear ties apart or fill a device beyond its budget there is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate, chain

from ...ir import DISK, Device, ModuleTree, Plan, Role, device_type, is_accelerator
from ..placing.attempts import Attempt, fixed_items, start
from ..placing.first_fit import limits_of
from ..placing.frontier import Worklist, item_tensors, opened
from ..placing.greedy import Greedy
from ..placing.terms import terms_of
from .rules import AccelerateRules, buffer_sizes
from .ties import OutOfReach


def with_disk(devices: tuple[Device, ...]) -> tuple[Device, ...]:
    """Return the devices with a disk among them: accelerate always falls back on one, of any size."""
    unlimited = tuple(replace(d, memory=None) if device_type(d.name) == DISK else d for d in devices)
    if any(device_type(device.name) == DISK for device in devices):
        return unlimited
    return (*unlimited, Device(DISK, None, origin="the last resort"))


def attempt_accelerate(plan: Plan, tree: ModuleTree, *, fallback: bool) -> Attempt | None:
    """Place by accelerate's rules; None where those lead to no lawful placement."""
    limits = [None if limit is None else 8 * limit for limit in limits_of(terms_of(plan, tree))]
    fixed = fixed_items(plan, tree)
    rules = AccelerateRules(plan, tree, limits, fallback=fallback)
    work = Worklist(tree, _first_items(rules, tree, fixed), rules.parts)
    greedy = start(rules, work, fixed, len(limits))
    try:
        greedy.run()
    except OutOfReach:
        return None
    places = _complete(tree, rules.counted, greedy.places, limits)
    if not _is_lawful(plan, tree, rules.counted, places, limits):
        return None
    minima = {device: -(-size // 8) for device, size in greedy.minima.items()}
    return Attempt(places, (), minima, _homeless_buffers(plan, tree, greedy, rules.along, limits))


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
    if not mains or tree.roles.count(Role.PARAMETER) == len(tree.roles):
        return 0
    total = sum(buffer_sizes(tree, i) for i, d in greedy.places.items() if d in off and i not in along)
    roomy = any(limit is None or limit >= total + greedy.used[i] for i in mains for limit in (limits[i],))
    return 0 if roomy else -(-total // 8)

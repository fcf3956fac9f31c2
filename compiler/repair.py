"""Move offloaded parts of a placed plan to accelerators with room, one by one.

Nothing that is on an accelerator moves, so the repaired plan is never worse than the one it is for.
"""

from __future__ import annotations

from ..ir import ModuleTree, Plan, Reason, is_accelerator
from .attempts import Attempt, place_units, streamed
from .first_fit import FirstFitRules
from .frontier import Worklist, item_at, item_tensors


def refill(plan: Plan, tree: ModuleTree) -> Plan:
    """Return the plan with less offloaded; the plan itself where nothing can be moved."""
    index = {device.name: i for i, device in enumerate(plan.devices)}
    kept: dict[int, int] = {}
    loose: dict[int, int | None] = {}
    for unit in plan.units:
        item = item_at(tree, unit.path)
        if item is None:
            return plan
        if unit.store is not None and (unit.reason is Reason.WRITTEN or is_accelerator(unit.store)):
            kept[item] = index[unit.store]
        else:
            loose[item] = index.get(unit.store or "")
    if not loose or not any(is_accelerator(device.name) for device in plan.devices):
        return plan
    attempt = _moved(plan, tree, kept, loose, {})
    needed = streamed(plan, tree, attempt.places)
    if needed:
        attempt = _moved(plan, tree, kept, loose, needed)
    before = _offloaded(plan, tree, {**kept, **{i: d for i, d in loose.items() if d is not None}})
    return place_units(plan, tree, attempt) if _offloaded(plan, tree, attempt.places) != before else plan


def _moved(
    plan: Plan,
    tree: ModuleTree,
    kept: dict[int, int],
    loose: dict[int, int | None],
    streaming: dict[int, int],
) -> Attempt:
    """Return where everything is after each loose item took the first accelerator with room."""
    rules = FirstFitRules(plan, tree, kept, streaming)
    work = Worklist(tree, loose, rules.parts)
    mains = [i for i, device in enumerate(plan.devices) if is_accelerator(device.name)]
    used = [0] * len(plan.devices)
    for item, device in kept.items():
        used[device] += rules.size(item)
    places, left = dict(kept), list[int]()
    while (item := work.pop()) is not None:
        partners, extra = rules.partners(item, work)
        needed = rules.size(item) + extra
        roomy = next((d for d in mains if _fits(rules, item, d, needed, used)), None)
        if roomy is not None:
            used[roomy] += needed
            for one in (item, *partners):
                places[one] = roomy
                work.done(one)
        elif not work.open(item):
            left.append(item)
            work.done(item)
    return _settled(plan, tree, rules, (places, used), left, loose)


def _settled(
    plan: Plan,
    tree: ModuleTree,
    rules: FirstFitRules,
    state: tuple[dict[int, int], list[int]],
    left: list[int],
    loose: dict[int, int | None],
) -> Attempt:
    """Give what stays offloaded its old place; what had none goes to the first host with room."""
    places, used = state
    home = {tensor: device for item, device in loose.items() for tensor in item_tensors(tree, item)}
    hosts = [i for i, device in enumerate(plan.devices) if not is_accelerator(device.name)]
    unplaced: list[int] = []
    for item in sorted(left, key=lambda item: home.get(item_tensors(tree, item).start) is None):
        old = home.get(item_tensors(tree, item).start)
        needed = rules.size(item)
        new = next((d for d in hosts if _fits(rules, item, d, needed, used)), None) if old is None else old
        if new is None:
            unplaced.append(item)
        else:
            places[item] = new
            used[new] += needed
    return Attempt(places, tuple(unplaced))


def _fits(rules: FirstFitRules, item: int, device: int, needed: int, used: list[int]) -> bool:
    room = rules.room(device, used)
    free = room is None or needed <= room - rules.reserved(device)
    return free and rules.first_device(item, device) == device


def _offloaded(plan: Plan, tree: ModuleTree, places: dict[int, int]) -> tuple[int, int]:
    """Return how many tensors are on accelerators, and how many have a place."""
    counts = [0, 0]
    for item, device in places.items():
        size = len(item_tensors(tree, item))
        counts[0] += size if is_accelerator(plan.devices[device].name) else 0
        counts[1] += size
    return counts[0], counts[1]

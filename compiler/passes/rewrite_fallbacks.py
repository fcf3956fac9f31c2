"""Repair what placing in order left behind: offloaded or unplaced parts go to any device with room.

What a person wrote is not moved, and nothing that is on an accelerator, so the repaired plan is never
worse than the one it is for.

Before:
    plan 1
    model "m"
    device cuda:0 memory 2KiB
    device cuda:1 memory 1KiB
    device cpu memory 8KiB
    module a : Linear 1KiB
    module b : Linear 2KiB
    module c : Linear 1KiB
    place a on cuda:0 added
    unit b
    unit c

After:
    plan 1
    model "m"
    device cuda:0 memory 2KiB
    device cuda:1 memory 1KiB
    device cpu memory 8KiB
    module a : Linear 1KiB
    module b : Linear 2KiB
    module c : Linear 1KiB
    place a on cuda:0 added
    place b on cpu run on cuda:0 added
    place c on cuda:1 added
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...ir import Diagnostics, ModuleTree, Plan, Reason, is_accelerator
from ..placing.attempts import Attempt, place_units, with_streaming
from ..placing.first_fit import FirstFitRules
from ..placing.frontier import Worklist, item_at, item_tensors
from ..placing.visiting import around_visits
from .pipeline import Fact


@dataclass(frozen=True, slots=True)
class RewriteFallbacks:
    """Moves parts one by one, in order; `search-placements` does what takes more than that."""

    name: ClassVar[str] = "rewrite-fallbacks"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.SIZED, Fact.TIED})
    gives: ClassVar[frozenset[Fact]] = frozenset()

    def run(self, plan: Plan, diagnostics: Diagnostics) -> Plan:
        """Return the plan with less of it offloaded, or the plan itself."""
        return around_visits(plan, lambda around: self._place(around, diagnostics))

    def _place(self, plan: Plan, diagnostics: Diagnostics) -> Plan:
        del diagnostics
        return plan if plan.tree is None else refill(plan, plan.tree)


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
    attempt, sound = with_streaming(plan, tree, lambda kept_free: _moved(plan, tree, kept, loose, kept_free))
    before = _offloaded(plan, tree, {**kept, **{i: d for i, d in loose.items() if d is not None}})
    if not sound or _offloaded(plan, tree, attempt.places) == before:
        return plan
    return place_units(plan, tree, attempt, Reason.FALLBACK)


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
    state = _State(dict(kept), [0] * len(plan.devices))
    for fixed, at in kept.items():
        state.used[at] += rules.size(fixed)
    left: list[list[int]] = []
    while (item := work.pop()) is not None:
        partners, extra = rules.partners(item, work)
        group, needed = [item, *partners], rules.size(item) + extra
        roomy = rules.first_roomy(item, needed, state.used, mains)
        if roomy is None and any(map(work.open, partners)):
            work.push(item)
        elif roomy is not None or not work.open(item):
            for one in group:
                work.done(one)
            if roomy is None:
                left.append(group)
            else:
                state.put(group, roomy, needed)
    return _settled(plan, tree, rules, state, left, loose)


@dataclass(frozen=True, slots=True)
class _State:
    """Where things are, and what each device holds."""

    places: dict[int, int]
    used: list[int]

    def put(self, group: list[int], device: int, nbytes: int) -> None:
        """Put items that belong together on a device."""
        self.used[device] += nbytes
        self.places.update(dict.fromkeys(group, device))


def _settled(
    plan: Plan,
    tree: ModuleTree,
    rules: FirstFitRules,
    state: _State,
    left: list[list[int]],
    loose: dict[int, int | None],
) -> Attempt:
    """Give what stays offloaded its old place; what had none goes to the first host with room."""
    home = {
        tensor: device
        for item, device in loose.items()
        if device is not None
        for tensor in item_tensors(tree, item)
    }
    hosts = [i for i, device in enumerate(plan.devices) if not is_accelerator(device.name)]
    unplaced: list[int] = []

    def old_place(group: list[int]) -> int | None:
        starts = (item_tensors(tree, item).start for item in group)
        return next((home[start] for start in starts if start in home), None)

    for group in sorted(left, key=lambda group: old_place(group) is None):
        needed = sum(map(rules.size, group))
        new = old_place(group)
        if new is None:
            new = rules.first_roomy(group[0], needed, state.used, hosts)
        if new is None:
            unplaced += group
        else:
            state.put(group, new, needed)
    return Attempt(state.places, tuple(unplaced))


def _offloaded(plan: Plan, tree: ModuleTree, places: dict[int, int]) -> tuple[int, int]:
    """Return how many tensors are on accelerators, and how many have a place."""
    counts = [0, 0]
    for item, device in places.items():
        size = len(item_tensors(tree, item))
        counts[0] += size if is_accelerator(plan.devices[device].name) else 0
        counts[1] += size
    return counts[0], counts[1]

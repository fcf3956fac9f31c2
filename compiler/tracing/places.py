"""From a plan to the labels a replay starts with."""

from __future__ import annotations

from collections.abc import Sequence

from ...ir import CPU, Plan, is_accelerator, unit_of_tensors
from .replay import Places
from .trace import Enter, Trace


def entries(trace: Trace, tops: Sequence[int]) -> list[int]:
    """Return for each module the unit whose entry it is; -1 where calls move nothing.

    ``tops`` is the unit's module for each module. A container has no call of its own, so the modules
    directly in it are its entries.
    """
    units: list[int] = []
    for module, (top, parent) in enumerate(zip(tops, trace.tree.parents, strict=True)):
        through = parent >= 0 and parent in trace.containers and tops[parent] == top
        units.append(top if top >= 0 and (module == top or (through and units[parent] == top)) else -1)
    return units


def first_unit(trace: Trace, units: Sequence[int]) -> int:
    """Return the unit that is entered first; -1 when none is."""
    for step in trace.steps:
        if isinstance(step, Enter) and units[trace.calls[step.call].module] >= 0:
            return units[trace.calls[step.call].module]
    return -1


def unit_modules(trace: Trace, plan: Plan) -> list[int]:
    """Return for each module of the tree the index of the deepest unit around it; -1 when it is cut."""
    by_module = {
        index: number
        for number, unit in enumerate(plan.units)
        if (index := trace.tree.module_index.get(unit.path)) is not None
    }
    units: list[int] = []
    for module, parent in enumerate(trace.tree.parents):
        units.append(by_module.get(module, units[parent] if parent >= 0 else -1))
    return units


def places_of_plan(trace: Trace, plan: Plan) -> Places:
    """Return where a placed plan runs every tensor and module of the trace."""
    tree = trace.tree
    covering = unit_modules(trace, plan)
    tops = [-1 if unit < 0 else tree.module_index[plan.units[unit].path] for unit in covering]
    runs = [None if unit < 0 else plan.units[unit].run for unit in covering]
    owner = unit_of_tensors(tree, plan.units)
    tensors = [plan.units[unit].run if unit >= 0 else None for unit in owner]
    units = entries(trace, tops)
    return Places(tensors, units, runs, start_device(trace, plan, units, runs), CPU)


def start_device(trace: Trace, plan: Plan, units: Sequence[int], runs: Sequence[object]) -> object:
    """Return where the model's inputs are put: where the first unit runs."""
    first = first_unit(trace, units)
    if first >= 0:
        return runs[first]
    used = [unit.run for unit in plan.units if unit.run]
    return next((device for device in used if is_accelerator(device)), CPU)

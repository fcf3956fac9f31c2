"""From a plan to the labels a replay starts with: where tensors are, and whose calls move arguments.

The rule is the loader's: the largest modules that run on one device take their arguments there, and
so does a module with tensors of its own. `places_of_map` is the rule of device maps, where each entry
of the map takes its arguments to its device.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from itertools import accumulate, pairwise

from ...ir import CPU, ModuleTree, Plan, Unit, is_accelerator, unit_of_tensors
from .replay import Places
from .trace import Enter, Trace


def boundaries(
    tree: ModuleTree, runs: Sequence[Hashable], containers: Iterable[int] = ()
) -> dict[int, Hashable]:
    """Return the modules that take their arguments to a device, in tree order, with the device.

    ``runs`` is the device of each tensor. Containers may never be called; the modules in them are.
    """
    closed = frozenset(containers)
    changes = [0, *accumulate(int(a != b) for a, b in pairwise(runs))]
    found: dict[int, Hashable] = {}
    inside = -1
    for module in range(len(tree)):
        tensors = tree.tensors(module)
        if not tensors or module < inside or module in closed:
            continue
        uniform = changes[tensors.start] == changes[tensors.stop - 1]
        if uniform:
            inside = tree.ends[module]
        if uniform or tree.own_tensors(module):
            found[module] = runs[tensors.start]
    return found


def places_of_plan(trace: Trace, plan: Plan) -> Places:
    """Return where the loader has a placed plan run every tensor and module of the trace."""
    runs = tensor_runs(trace.tree, plan.units)
    return placed(trace, plan, runs, boundaries(trace.tree, runs, trace.kinds.open))


def places_of_map(trace: Trace, plan: Plan) -> Places:
    """Return the same under the rule of device maps: every entry of the map is a boundary."""
    owner = unit_of_tensors(trace.tree, plan.units)
    runs = [plan.units[unit].run if unit >= 0 else None for unit in owner]
    covering = unit_modules(trace, plan)
    tops = [-1 if unit < 0 else trace.tree.module_index[plan.units[unit].path] for unit in covering]
    units = entries(trace, tops)
    return placed(
        trace, plan, runs, {m: plan.units[covering[m]].run for m, top in enumerate(units) if top >= 0}
    )


def placed(
    trace: Trace, plan: Plan, runs: Sequence[Hashable], targets: dict[int, Hashable]
) -> Places:  # fmt: skip
    """Return the labels of a replay; a module with several names is entered under each of them."""
    by_module: list[Hashable] = [None] * len(trace.tree)
    for module, device in targets.items():
        by_module[first_name(trace.tree, module)] = device
    start = start_device(trace, by_module)
    if start is None:
        used = [unit.run for unit in plan.units if unit.run]
        start = next((device for device in used if is_accelerator(device)), CPU)
    return Places(runs, by_module, start, CPU)


def first_name(tree: ModuleTree, module: int) -> int:
    """Return the number a module object is traced under; it may have several."""
    return module if tree.twins is None else tree.twins[module]


def tensor_runs(tree: ModuleTree, units: Sequence[Unit]) -> list[str | None]:
    """Return where each tensor is used; what shares a storage on one device is used where its first is."""
    owner = unit_of_tensors(tree, units)
    runs: list[str | None] = []
    for tensor, storage in enumerate(tree.storages):
        own, first = owner[tensor], owner[storage]
        shared = own >= 0 and first >= 0 and units[own].store == units[first].store
        unit = first if shared else own
        runs.append(units[unit].run if unit >= 0 else None)
    return runs


def entries(trace: Trace, tops: Sequence[int]) -> list[int]:
    """Return for each module the unit whose entry it is; -1 where calls move nothing.

    ``tops`` is the unit's module for each module. A container may have no call of its own, so the
    modules directly in it are its entries.
    """
    units: list[int] = []
    for module, (top, parent) in enumerate(zip(tops, trace.tree.parents, strict=True)):
        through = parent >= 0 and parent in trace.containers and tops[parent] == top
        units.append(top if top >= 0 and (module == top or (through and units[parent] == top)) else -1)
    return units


def start_device(trace: Trace, targets: Sequence[Hashable]) -> Hashable:
    """Return where the model's inputs are put: where the first boundary takes them; None without any."""
    for step in trace.steps:
        if isinstance(step, Enter) and targets[trace.calls[step.call].module] is not None:
            return targets[trace.calls[step.call].module]
    return None


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

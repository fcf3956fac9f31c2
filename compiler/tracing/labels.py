"""From a plan to the labels a replay starts with: where tensors are, and whose calls move arguments.

The rules are the loader's (`loading.moves`): a unit takes its arguments where it runs, a container is
entered through the modules in it, the model's own inputs go where its first unit runs.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from ...ir import CPU, DISK, ModuleTree, Plan, Unit, device_type, unit_of_tensors
from ..running.homes import callers_of, spans_of
from .replay import Places, Rest
from .trace import Enter, Trace


def places_of_plan(trace: Trace, plan: Plan) -> Places:
    """Return where the loader has a placed plan run every tensor and module of the trace."""
    tree = trace.tree
    covering = unit_modules(trace, plan)
    tops = [-1 if unit < 0 else tree.module_index[plan.units[unit].path] for unit in covering]
    targets: list[Hashable] = [None] * len(tree)
    homes = dict[int, Hashable]()
    from_unit = callers_of(tree, plan.units, lambda module: module not in trace.containers)
    for module, top in enumerate(entry_units(trace, tops)):
        first = first_name(tree, module)
        if top >= 0 and targets[first] is None:
            targets[first] = plan.units[covering[module]].run
            if (home := from_unit.get(covering[module])) is not None:
                homes[first] = plan.units[home].run
    return Places(
        tensor_runs(tree, plan.units), targets, _start(tree, plan), CPU, homes, spans_of(tree, plan.units)
    )


def resting(tree: ModuleTree, plan: Plan, sites: Mapping[int, frozenset[int]]) -> dict[int, Rest]:
    """Return where each streamed tensor is at rest: what is on disk is seen as the memory of its file.

    ``sites`` are the modules that bring a tensor, by tensor object.
    """
    objects, owner = tree.objects or tree.storages, unit_of_tensors(tree, plan.units)
    found: dict[int, Rest] = {}
    for tensor, storage in enumerate(tree.storages):
        if objects[tensor] in sites:
            store = plan.units[owner[storage]].store or CPU
            label = CPU if device_type(store) == DISK else store
            found[tensor] = Rest(label, sites[objects[tensor]])
    return found


def _start(tree: ModuleTree, plan: Plan) -> str:
    """Return where the model's inputs are put: where the first unit that is a module with tensors runs."""
    first = min(
        (unit for unit in plan.units if tree.covered(unit.path)),
        key=lambda unit: (unit.path not in tree.module_index, tree.covered(unit.path).start, unit.path),
        default=None,
    )
    return CPU if first is None or first.run is None else first.run


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


def entry_units(trace: Trace, tops: Sequence[int]) -> list[int]:
    """Return for each module the unit whose entry it is; -1 where calls move nothing.

    ``tops`` is the unit's module for each module. A container may have no call of its own, so the
    modules directly in it are its entries.
    """
    units: list[int] = []
    for module, (top, parent) in enumerate(zip(tops, trace.tree.parents, strict=True)):
        through = parent >= 0 and parent in trace.kinds.open and tops[parent] == top
        units.append(top if top >= 0 and (module == top or (through and units[parent] == top)) else -1)
    return units


def start_target(trace: Trace, targets: Sequence[Hashable]) -> Hashable:
    """Return where the first call that moves its arguments takes them; None without any."""
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

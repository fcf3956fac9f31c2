"""Placing around visits: what a person put elsewhere inside a module that is never split.

Such parts are placed already. The module around them is placed as if they were not in it, with their
bytes kept free on their devices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from ...ir import Constraint, Demand, ModuleTree, Plan, Reserve, Unit, atomic_modules, homes_of, is_within
from ...ir.purposes import MOMENTARY, TOGETHER, counts_on
from .frontier import merge_units, split_modules
from .grains import Grain, ancestors, stream_bytes


def visited_units(tree: ModuleTree, units: Iterable[Unit], rules: Iterable[Constraint]) -> list[Unit]:
    """Return the units inside a module that is never split, or inside another unit."""
    placed = list(units)
    paths = {unit.path for unit in placed}
    paths.update(tree.paths[module] for module in atomic_modules(tree, rules))
    return [unit for unit in placed if unit.store is not None and any(p in paths for p in _above(unit.path))]


def tops_of(
    tree: ModuleTree, visited: Iterable[Unit], around: Iterable[Unit], rules: Iterable[Constraint]
) -> set[int]:
    """Return the outermost modules that stay whole around visited units."""
    whole = {tree.paths[module] for module in atomic_modules(tree, rules)}
    whole.update(unit.path for unit in around)
    outermost = (next((p for p in reversed(_above(unit.path)) if p in whole), None) for unit in visited)
    return {tree.module_index[path] for path in outermost if path in tree.module_index}


def around_visits(plan: Plan, place: Callable[[Plan], Plan]) -> Plan:
    """Place a plan; the visited units stay as they are, and the rest as if they were not there."""
    tree = plan.tree
    visited = [] if tree is None else visited_units(tree, plan.units, plan.constraints)
    if tree is None or not visited:
        return place(plan)
    apart = set(visited)
    rest = tuple(unit for unit in plan.units if unit not in apart)
    inside = {tensor for unit in visited for tensor in tree.covered(unit.path)}
    carved = tree.sized(_without(tree.nbytes or (), inside), _without(tree.eighths or (), inside) or None)
    bounds = [d for d in plan.demands if d.purpose not in TOGETHER]
    theirs = [d for d in bounds if any(is_within(d.path, unit.path) for unit in visited)]
    around = replace(
        plan,
        units=rest,
        tree=carved,
        demands=tuple(d for d in plan.demands if d not in theirs),
        reserves=(*plan.reserves, *_kept(tree, visited, theirs)),
    )
    placed = place(around)
    units = _apart(tree, placed, rest, visited)
    outcome = placed.outcome
    if outcome is not None:
        visits = sum(units[home].run != units[unit].run for unit, home in homes_of(tree, units).items())
        outcome = replace(outcome, hops=outcome.hops + 2 * visits)
    return replace(
        placed, units=units, tree=tree, demands=plan.demands, reserves=plan.reserves, outcome=outcome
    )


def _above(path: str) -> list[str]:
    """Return the paths strictly above one, the nearest first."""
    found: list[str] = []
    while path:
        path = path.rpartition(".")[0]
        found.append(path)
    return found


def _without(sizes: Iterable[int], tensors: set[int]) -> tuple[int, ...]:
    return tuple(0 if tensor in tensors else size for tensor, size in enumerate(sizes))


def _kept(tree: ModuleTree, visited: list[Unit], demands: list[Demand]) -> Iterator[Reserve]:
    """Yield what visited units take: bytes where they are stored, demands and buffers where they run."""
    sizes, peaks = tree.nbytes or (), dict[str, int]()
    for unit in visited:
        store, run = unit.store or "", unit.run or ""
        inner = [other for other in visited if other is not unit and is_within(other.path, unit.path)]
        nested = {tensor for other in inner for tensor in tree.covered(other.path)}
        own = [tensor for tensor in tree.covered(unit.path) if tensor not in nested]
        yield Reserve(sum(sizes[tensor] for tensor in own), store)
        if store != run:
            whole = tree.covered(unit.path)
            nbytes = stream_bytes(tree, Grain(unit.path, whole.start, whole.stop))
            peaks[run] = max(peaks.get(run, 0), nbytes)
        for demand in demands:
            nearest = is_within(demand.path, unit.path) and not any(
                is_within(demand.path, o.path) for o in inner
            )
            if nearest and demand.purpose in MOMENTARY and counts_on(demand.purpose, run):
                peaks[run] = max(peaks.get(run, 0), demand.nbytes)
            elif nearest and demand.purpose not in MOMENTARY:
                yield Reserve(demand.nbytes, run)
    yield from (Reserve(nbytes, device) for device, nbytes in peaks.items())


def _apart(tree: ModuleTree, placed: Plan, rest: Sequence[Unit], visited: Sequence[Unit]) -> tuple[Unit, ...]:
    """Return all units in tree order; no unit is larger than what stays whole around a visited one."""
    inner = set(homes_of(tree, placed.units))
    searched = [unit for index, unit in enumerate(placed.units) if index in inner]
    units = tuple(unit for index, unit in enumerate(placed.units) if index not in inner)
    if all(unit.store is not None for unit in units):
        opened = above_tops(tree, (*visited, *searched), rest, placed.constraints)
        units = merge_units(tree, units, opened | split_modules(tree, placed.constraints))
    return in_tree_order(tree, (*units, *searched, *visited))


def in_tree_order(tree: ModuleTree, units: Iterable[Unit]) -> tuple[Unit, ...]:
    """Return units in tree order, visited ones behind what is around them."""
    return tuple(sorted(units, key=lambda unit: (tree.covered(unit.path).start, unit.path)))


def above_tops(
    tree: ModuleTree, visited: Iterable[Unit], around: Iterable[Unit], rules: Iterable[Constraint]
) -> frozenset[int]:
    """Return the modules above what stays whole around visited units: they are opened."""
    tops = tops_of(tree, visited, around, rules)
    return frozenset[int]().union(*(ancestors(tree, top) for top in tops))

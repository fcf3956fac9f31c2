"""What every host of a plan makes for itself, so that nothing of it travels.

A module that only holds what its constructor computes (rotary frequencies) is made on every host: what it
computes from positions is the same there. So is what the code around a stack of layers computes from the
inputs: masks, positions, lengths.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from ...ir import ModuleTree, Plan, Role, Unit, is_within, unit_of_tensors

_MOST_MADE: Final = 64 << 20
"""Bytes of buffers that are made on every host."""


def opened_around_layers(plan: Plan, tree: ModuleTree) -> Plan:
    """Return the plan with a unit for each part of what is around layers, wherever it was one unit.

    A host passes by the units of others with shapes alone, and the code around layers asks for values: it
    looks whether a mask hides anything. Nothing is placed otherwise.
    """
    around = _around_layers(tree)
    taken = {unit.path for unit in plan.units}
    units: list[Unit] = []
    for unit in plan.units:
        module = tree.module_index.get(unit.path)
        if module is None or module not in around:
            units.append(unit)
            continue
        parts = (path for path in _parts(tree, module, around) if path not in taken)
        units += [replace(unit, path=path) for path in parts]
    return replace(plan, units=tuple(units))


def _around_layers(tree: ModuleTree) -> frozenset[int]:
    """Return the modules that contain the outermost numbered modules."""
    found: set[int] = set()
    module = 0
    while module < len(tree):
        if not tree.names[module].isdecimal():
            module += 1
            continue
        above, module = tree.parents[module], tree.ends[module]
        while above >= 0 and above not in found:
            found.add(above)
            above = tree.parents[above]
    return frozenset(found)


def _parts(tree: ModuleTree, module: int, around: frozenset[int]) -> Iterator[str]:
    """Yield the paths of what takes a module's place, as far as it has tensors."""
    yield from (tree.tensor_paths[tensor] for tensor in tree.own_tensors(module))
    for child in tree.children(module):
        if child in around:
            yield from _parts(tree, child, around)
        elif len(tree.tensors(child)):
            yield tree.paths[child]


def made_everywhere(plan: Plan, tree: ModuleTree) -> frozenset[str]:
    """Return the units that hold nothing but what constructors make, and belong to no module of another."""
    owner = unit_of_tensors(tree, plan.units)
    outer = {unit.path for unit in plan.units if unit.path in tree.module_index}
    held: dict[int, list[int]] = {}
    for tensor, unit in enumerate(owner):
        held.setdefault(unit, []).append(tensor)
    found = (plan.units[unit] for unit, tensors in held.items() if unit >= 0 and _is_made(tree, tensors))
    return frozenset(unit.path for unit in found if not _is_inside(unit, outer))


def _is_made(tree: ModuleTree, tensors: Sequence[int]) -> bool:
    nbytes = tree.nbytes
    total = 0 if nbytes is None else sum(nbytes[tensor] or 0 for tensor in tensors)
    return total <= _MOST_MADE and all(tree.roles[tensor] is Role.TRANSIENT for tensor in tensors)


def _is_inside(unit: Unit, outer: frozenset[str] | set[str]) -> bool:
    return any(path != unit.path and is_within(unit.path, path) for path in outer)

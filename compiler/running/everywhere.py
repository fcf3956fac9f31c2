"""What every host of a plan makes for itself, so that nothing of it travels.

A module that only holds what its constructor computes (rotary frequencies) is made on every host: what it
computes from positions is the same there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ...ir import ModuleTree, Plan, Role, Unit, is_within, unit_of_tensors

_MOST_MADE: Final = 64 << 20
"""Bytes of buffers that are made on every host."""


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

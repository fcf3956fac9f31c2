"""What the tensors of a traced model cost: as the plan counts them, else by shape and dtype."""

from __future__ import annotations

from math import prod

from ...ir import ModuleTree, Plan, unit_of_tensors
from .trace import Trace


def tensor_nbytes(tree: ModuleTree, counted: ModuleTree | None = None) -> list[int]:
    """Return the bytes of each tensor, 0 for all but the first of a storage.

    ``counted`` is a plan's own table: its sizes know the dtype that will be loaded.
    """
    known: dict[str, int] = {}
    if counted is not None and counted.nbytes is not None:
        known = {
            path: counted.nbytes[storage]
            for path, storage in zip(counted.tensor_paths, counted.storages, strict=True)
        }
    own = _own_sizes(tree) if tree.nbytes is None else tree.nbytes
    return [
        known.get(path, own[index]) if storage == index else 0
        for index, (path, storage) in enumerate(zip(tree.tensor_paths, tree.storages, strict=True))
    ]


def _own_sizes(tree: ModuleTree) -> list[int]:
    import torch

    rows = zip(tree.shapes, tree.dtypes, strict=True)
    return [prod(shape) * getattr(torch, dtype).itemsize for shape, dtype in rows]


def unit_nbytes(trace: Trace, plan: Plan) -> list[int]:
    """Return the bytes of each unit of a plan, shared storage counted where it comes first."""
    sizes = [0] * len(plan.units)
    owner = unit_of_tensors(trace.tree, plan.units)
    for unit, nbytes in zip(owner, tensor_nbytes(trace.tree, plan.tree), strict=True):
        if unit >= 0:
            sizes[unit] += nbytes
    return sizes

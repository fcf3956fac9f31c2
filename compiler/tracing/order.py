"""A module tree in execution order: siblings as the forward first reaches them.

Placing, hops and reading ahead follow the order of the tree. Registration order is what a model's
author typed; where the two differ, the forward is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from ...ir import ModuleTree, group_storages
from .trace import Op, Trace

Item = TypeVar("Item")


def in_execution_order(tree: ModuleTree, trace: Trace) -> ModuleTree:
    """Return the tree of a traced model with siblings in the order they are first used.

    What the forward does not reach stays behind the sibling before it.
    """
    order = _module_order(tree, _first_steps(trace))
    return tree if order == list(range(len(order))) else permuted(tree, order)


def _first_steps(trace: Trace) -> list[int | None]:
    """Return the first step inside each module, or that reads its weights."""
    tree = trace.tree
    first: list[int | None] = [None] * len(tree)
    for call in trace.calls:
        _lower(first, call.module, call.first)
    for number, step in enumerate(trace.steps):
        for value in (*step.inputs, *step.loose) if isinstance(step, Op) else ():
            for tensor in trace.values[value].tensors:
                _lower(first, tree.owners[tensor], number)
    for module in range(len(tree) - 1, 0, -1):
        step_inside = first[module]
        if step_inside is not None:
            _lower(first, tree.parents[module], step_inside)
    return first


def _lower(first: list[int | None], module: int, step: int) -> None:
    before = first[module]
    first[module] = step if before is None else min(before, step)


def _module_order(tree: ModuleTree, first: Sequence[int | None]) -> list[int]:
    order: list[int] = []
    stack = [0]
    while stack:
        module = stack.pop()
        order.append(module)
        keyed: list[tuple[int, int]] = []
        reached = -1
        for child in tree.children(module):
            step = first[child]
            reached = reached if step is None else step
            keyed.append((reached, child))
        stack += [child for _, child in sorted(keyed, reverse=True)]
    return order


def permuted(tree: ModuleTree, order: Sequence[int]) -> ModuleTree:
    """Return a tree with its modules in another pre-order; every tensor follows its module."""
    place = {old: new for new, old in enumerate(order)}
    tensors = [tensor for module in order for tensor in tree.own_tensors(module)]
    first_tensors = [0]
    for module in order:
        first_tensors.append(first_tensors[-1] + len(tree.own_tensors(module)))
    sizes = None if tree.nbytes is None else _resized(tree.nbytes, tree.storages, tensors)
    return replace(
        tree,
        names=_pick(tree.names, order),
        classes=_pick(tree.classes, order),
        parents=tuple(place.get(tree.parents[module], -1) for module in order),
        ends=tuple(place[module] + tree.ends[module] - module for module in order),
        first_tensors=tuple(first_tensors),
        tensor_names=_pick(tree.tensor_names, tensors),
        shapes=_pick(tree.shapes, tensors),
        dtypes=_pick(tree.dtypes, tensors),
        roles=_pick(tree.roles, tensors),
        storages=_regrouped(tree.storages, tensors),
        nbytes=sizes,
        objects=None if tree.objects is None else _regrouped(tree.objects, tensors),
        eighths=None if tree.eighths is None else _pick(tree.eighths, tensors),
        twins=None if tree.twins is None else _regrouped(tree.twins, order),
    )


def _pick(column: Sequence[Item], order: Sequence[int]) -> tuple[Item, ...]:
    return tuple(column[index] for index in order)


def _regrouped(groups: Sequence[int], order: Sequence[int]) -> tuple[int, ...]:
    """Number groups by their first member in the new order."""
    return group_storages([groups[index] for index in order])


def _resized(nbytes: Sequence[int], storages: Sequence[int], order: Sequence[int]) -> tuple[int, ...]:
    """Let the first of each storage in the new order carry its cost."""
    seen: set[int] = set()
    sizes: list[int] = []
    for index in order:
        storage = storages[index]
        sizes.append(0 if storage in seen else nbytes[storage])
        seen.add(storage)
    return tuple(sizes)

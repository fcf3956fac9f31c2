"""Placing a plan again: it starts from what people wrote; what a compile added is found anew.

Budgets, margins, reserves, rules, options and pins of people stay. What only a trace could find again (cuts,
activations, the cache of each layer) stays too: a plan has no forward to trace.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Final, cast

from ...ir import (
    Atomic,
    Demand,
    Device,
    Diagnostics,
    ModuleTree,
    Plan,
    Reason,
    Reserve,
    Split,
    Unit,
    is_accelerator,
    is_within,
)
from ...ir.dtypes import is_converted, stored_eighths
from ...ir.patterns import match_paths
from ...ir.purposes import ALLOCATOR, RUNTIME
from ..lines.option_lines import read_option_lines
from ..passes.annotate_sizes import AnnotateSizes
from ..sources.config_numbers import WIDTHS
from .options import Options

_WRITTEN: Final = frozenset({None, Reason.WRITTEN})
_DTYPES: Final = frozenset({"dtype", "special-dtypes"})


def as_written(plan: Plan, asked: Options, options: Options) -> Plan:
    """Return a plan without what an earlier compile added and this one finds anew.

    ``asked`` are the options given now: one that is given again takes off what it made before. ``options``
    are those in force.
    """
    runtime = asked.devices is not None or asked.gives("runtime")
    return replace(
        plan,
        units=tuple(unit for unit in plan.units if _is_written(unit)),
        reserves=tuple(
            each for each in plan.reserves if not (runtime and _is_runtime(each)) and not _is_allocator(each)
        ),
        demands=(*plan.demands, *_told_of_the_allocator(plan)),
        caches=tuple(cache for cache in plan.caches if not cache.added),
        tree=_sizes_taken_off(plan, options),
        ledger=(),
        outcome=None,
        diagnostics=(),
    )


def are_sized(plan: Plan, options: Options) -> bool:
    """Say whether the bytes of a plan are those of the dtype that is wanted; special ones are laid over."""
    before = dict(plan.options)
    same = before.get("dtype") == options.dtype
    return same and not _DTYPES.isdisjoint(before) and plan.tree is not None and plan.tree.nbytes is not None


def _sizes_taken_off(plan: Plan, options: Options) -> ModuleTree | None:
    """Return the tree without the bytes of an earlier dtype, when another one is wanted."""
    before = dict(plan.options)
    if plan.tree is None or _DTYPES.isdisjoint(before):
        return plan.tree
    if before.get("dtype") == options.dtype and options.dtype in {None, *WIDTHS}:
        return _without_special(plan, plan.tree, options.dtype, dict(options.special_dtypes))
    known = all(stored_eighths(dtype) is not None for dtype in plan.tree.dtypes)
    return replace(plan.tree, nbytes=None, eighths=None) if known else plan.tree


def _without_special(
    plan: Plan, tree: ModuleTree, dtype: str | None, special: Mapping[str, str]
) -> ModuleTree | None:
    """Return the tree with the tensors that have a dtype of their own no more sized as the others are.

    What is wider than the dtype of the model stays so where its class keeps others of that dtype.
    """
    said = read_option_lines((plan,), Diagnostics()).get("special_dtypes", ())
    before = {path for path, _ in cast("tuple[tuple[str, str], ...]", said)}
    taken = [tree.tensor_index[path] for path in sorted(before - special.keys()) if path in tree.tensor_index]
    if not taken or tree.nbytes is None:
        return tree
    rows = zip(tree.tensor_paths, tree.dtypes, tree.shapes, tree.nbytes, strict=True)
    kept = {
        own
        for path, own, shape, nbytes in rows
        if path not in before and nbytes and 8 * nbytes == prod(shape) * (stored_eighths(own) or 0)
    }
    own = {tree.tensor_paths[tensor]: tree.dtypes[tensor] for tensor in taken}
    back = {
        path: kind if dtype is None or kind in kept or not is_converted(kind) else dtype
        for path, kind in own.items()
        if stored_eighths(kind) is not None
    }
    return AnnotateSizes(None, tuple(back.items()), sized=True).run(plan, Diagnostics()).tree


def _is_written(unit: Unit) -> bool:
    return unit.store is None or unit.reason in _WRITTEN


def _is_runtime(reserve: Reserve) -> bool:
    return reserve.added and reserve.purpose == RUNTIME


def _is_allocator(reserve: Reserve) -> bool:
    return reserve.added and reserve.purpose == ALLOCATOR


def _told_of_the_allocator(plan: Plan) -> list[Demand]:
    """Return what a trace told of the allocator, for whatever accelerators there are now."""
    nbytes = max((each.nbytes for each in plan.reserves if _is_allocator(each)), default=None)
    return [] if nbytes is None else [Demand(nbytes, "", ALLOCATOR, added=True)]


def with_classes(plan: Plan, names: tuple[str, ...] | None, *, fresh: bool) -> Plan:
    """Return the plan with these classes never split, in place of those that were named before.

    In a ``fresh`` plan, one no compile has seen, they stand in place of the classes its source lists.
    """
    if names is None:
        return plan
    before = dict(plan.options).get("no-split", "").split(",")
    named = [Atomic(name, by_class=True) for name in names]
    kept = [
        rule
        for rule in plan.constraints
        if not (isinstance(rule, Atomic) and rule.by_class)
        or not (fresh if rule.added else rule.target in before)
    ]
    kept = [
        rule
        for rule in kept
        if not (isinstance(rule, Split) and rule.added and _is_inside(plan, rule, names))
    ]
    return replace(plan, constraints=tuple(dict.fromkeys((*kept, *named))))


def _is_inside(plan: Plan, rule: Split, names: tuple[str, ...]) -> bool:
    """Say whether a trace would open what a person wants whole: the person decides."""
    tree = plan.tree
    if tree is None:
        return False
    whole = [tree.paths[module] for module, name in enumerate(tree.classes) if module and name in names]
    opened = match_paths(tree, rule.pattern)
    return any(is_within(path, above) for path in opened for above in whole)


def exchanged(devices: tuple[Device, ...], before: tuple[Device, ...]) -> tuple[Device, ...]:
    """Return devices with new budgets; what else was known of one, its margin and rates, stays."""
    known = {device.name: device for device in before}
    return tuple(_with_budget(known.get(new.name, new), new) for new in devices)


def _with_budget(device: Device, new: Device) -> Device:
    pool, size = (device.pool, device.pool_memory) if new.pool is None else (new.pool, new.pool_memory)
    return replace(device, memory=new.memory, origin=new.origin, pool=pool, pool_memory=size)


def with_margin(
    devices: tuple[Device, ...], before: tuple[Device, ...], margin: int | None
) -> tuple[Device, ...]:
    """Return devices with this margin on every accelerator, except those there were ``before``."""
    if margin is None:
        return devices
    known = {device.name for device in before}
    wanted = (is_accelerator(device.name) and device.name not in known for device in devices)
    rows = zip(devices, wanted, strict=True)
    return tuple(replace(device, margin=margin) if wants else device for device, wants in rows)


def with_reserves(plan: Plan, reserves: tuple[Reserve, ...]) -> Plan:
    """Return the plan with more reserves; one of the same device and purpose replaces what was there."""
    again = {(each.device, each.purpose) for each in reserves}
    kept = tuple(each for each in plan.reserves if (each.device, each.purpose) not in again)
    return replace(plan, reserves=kept + reserves)

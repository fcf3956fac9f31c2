"""A drop-in for ``accelerate.infer_auto_device_map`` 1.15: same arguments, same map, faster.

The map is accelerate's wherever that is lawful; where accelerate crashes, leaves a tensor without a
place, tears a tie apart or overruns a budget, the map is complete and within its budgets.
"""

from __future__ import annotations

import logging
import math
import warnings
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...ir import Atomic, Diagnostics, Model, ModuleTree, Plan, PlanError
from ...ir.rules.budgets import NO_USABLE_DEVICE
from ..accelerate.attempt import with_disk
from ..lines.option_values import Asked, in_brief, names
from ..machine.budgets import DeviceKey, devices_from
from ..passes.annotate_sizes import AnnotateSizes
from ..passes.assign_accelerate import as_accelerate
from ..passes.merge_ties import MergeTies
from ..placing.attempts import Attempt
from ..placing.frontier import item_path
from ..sources.live import checked_module, lower_model, paused_collection, untied

if TYPE_CHECKING:
    from torch import nn

_MIXED = -1
_LOG = logging.getLogger(__name__)


class InvalidRequestError(PlanError, ValueError):
    """What was asked cannot be planned; callers of accelerate expect a ``ValueError``."""


def infer_auto_device_map(
    model: nn.Module,
    max_memory: Mapping[DeviceKey, int | str] | None = None,
    no_split_module_classes: str | Iterable[str] | None = None,
    dtype: object = None,
    special_dtypes: Mapping[str, Any] | None = None,
    verbose: bool = False,  # noqa: FBT001, FBT002  # accelerate's signature
    clean_result: bool = True,  # noqa: FBT001, FBT002
    offload_buffers: bool = False,  # noqa: FBT001, FBT002
    fallback_allocation: bool = False,  # noqa: FBT001, FBT002
) -> dict[str, DeviceKey]:
    """Return the device of every module, or parameter or buffer of an opened module, by path.

    Raises:
        InvalidRequestError: a size, device or dtype does not exist; a ``ValueError`` too, as accelerate's is.

    """
    with paused_collection():
        plan, tree = _lowered(model, max_memory, no_split_module_classes, dtype, special_dtypes)
        attempt = as_accelerate(plan, tree, fallback=fallback_allocation)
        keys = [_key(device.name) for device in plan.devices]
        if verbose:
            _tell(tree, attempt, keys)
        found = _named(tree, _merged(tree, attempt.places) if clean_result else attempt.places, keys)
    _warn(plan, model, attempt, offload_buffers=offload_buffers)
    return found


def _lowered(
    model: nn.Module,
    max_memory: Mapping[DeviceKey, int | str] | None,
    no_split: str | Iterable[str] | None,
    dtype: object,
    special_dtypes: Mapping[str, Any] | None,
) -> tuple[Plan, ModuleTree]:
    """Return the sized plan of a request, and its tree.

    accelerate falls back on an endless disk, so budgets that hold nothing are no mistake here, and it knows
    no memory that two devices share.
    """
    budgets, diagnostics = Diagnostics(), Diagnostics()
    classes = _checked(model, max_memory, no_split, special_dtypes)
    sizes = None if max_memory is None else {key: _whole(size) for key, size in max_memory.items()}
    devices = devices_from(sizes, budgets)
    tree = _tree(model)
    plan = Plan(
        model=Model(type(model).__name__),
        devices=with_disk(tuple(replace(each, pool=None, pool_memory=None) for each in devices)),
        constraints=tuple(Atomic(name, by_class=True) for name in classes),
        tree=tree,
    )
    known = [
        (path, _dtype_name(kind))
        for path, kind in (special_dtypes or {}).items()
        if path in tree.tensor_index
    ]
    annotate = AnnotateSizes(None if dtype is None else _dtype_name(dtype), tuple(known))
    for step in (annotate, MergeTies(parameters_only=True)):
        plan = step.run(plan, diagnostics)
    errors = [e for e in (*budgets.errors, *diagnostics.errors) if e.rule is not NO_USABLE_DEVICE]
    if errors:
        raise InvalidRequestError(errors)
    return plan, plan.tree or tree


def _tree(model: nn.Module) -> ModuleTree:
    try:
        return lower_model(model)
    except PlanError as error:
        raise InvalidRequestError(error.diagnostics) from None


def _checked(model: object, max_memory: object, no_split: object, special: object) -> tuple[str, ...]:
    """Return the class names in order; what is none of the kind a request holds is refused."""
    found = Diagnostics()
    try:
        checked_module(model)
    except PlanError as error:
        found.extend(error.diagnostics)
    for name, value in (("max_memory", max_memory), ("special_dtypes", special)):
        if value is not None and not isinstance(value, Mapping):
            Asked(name, value, found).refuse("give a mapping, or None")
    given = [no_split] if isinstance(no_split, str) else no_split
    classes = () if given is None else names(Asked("no_split_module_classes", given, found)) or ()
    if found.errors:
        raise InvalidRequestError(found.errors)
    return tuple(sorted(classes))


def _whole(size: float | str) -> int | str:
    """Return a size without the fraction that a share of the memory leaves."""
    return int(size) if isinstance(size, float) and math.isfinite(size) else size  # type: ignore[return-value]


def _dtype_name(dtype: object) -> str:
    """Return the name of a torch dtype, or of one of accelerate's own that are members of an enum."""
    return in_brief(getattr(dtype, "value", dtype)).removeprefix("torch.")


def _key(device: str) -> DeviceKey:
    kind, _, index = device.partition(":")
    return int(index) if kind == "cuda" else device


def _merged(tree: ModuleTree, places: dict[int, int]) -> dict[int, int]:
    """Return the places with two or more entries below a module on one device made one, from the top."""
    counts: dict[int, int] = {-1: 0}
    device_of: dict[int, int] = {}
    for item, device in places.items():
        module = _parent(tree, item)
        counts[module] = counts.get(module, 0) + 1
        device_of[module] = device if device_of.setdefault(module, device) == device else _MIXED
        while (module := tree.parents[module]) not in counts:
            counts[module] = 0
    del counts[-1]
    above = sorted(counts)
    for module in reversed(above[1:]):
        parent, device = tree.parents[module], device_of[module]
        counts[parent] += counts[module]
        device_of[parent] = device if device_of.setdefault(parent, device) == device else _MIXED
    tops: dict[int, int | None] = {-1: None}
    for module in above:
        whole = counts[module] > 1 and device_of[module] != _MIXED
        over = tops[tree.parents[module]]
        tops[module] = over if over is not None else module if whole else None
    merged: dict[int, int] = {}
    for item, device in places.items():
        top = tops[_parent(tree, item)]
        merged[item if top is None else top] = device
    return merged


def _parent(tree: ModuleTree, item: int) -> int:
    return tree.parents[item] if item >= 0 else tree.owners[~item]


def _named(tree: ModuleTree, places: dict[int, int], keys: list[DeviceKey]) -> dict[str, DeviceKey]:
    if len(places) * 4 > len(tree):
        return {item_path(tree, item): keys[device] for item, device in places.items()}
    return {_path(tree, item): keys[device] for item, device in places.items()}


def _path(tree: ModuleTree, item: int) -> str:
    """Return one path without working out those of the whole tree."""
    names = [] if item >= 0 else [tree.tensor_names[~item]]
    module = item if item >= 0 else bisect_right(tree.first_tensors, ~item) - 1
    while module > 0:
        names.append(tree.names[module])
        module = tree.parents[module]
    return ".".join(reversed(names))


def _tell(tree: ModuleTree, attempt: Attempt, keys: list[DeviceKey]) -> None:
    for item, device in attempt.places.items():
        print(f"{_path(tree, item) or 'the model'} -> {keys[device]}")  # noqa: T201  # what verbose asks for


def _warn(plan: Plan, model: nn.Module, attempt: Attempt, *, offload_buffers: bool) -> None:
    """Say what accelerate says, through the channels its callers listen to.

    Filters and tests look for words of its messages: `Current model requires`, `offload_buffers=True`,
    `insufficient memory`. They are kept; numbers and advice are ours.
    """
    if attempt.homeless_buffers and not offload_buffers:
        text = (
            f"Current model requires {attempt.homeless_buffers} bytes of buffers for offloaded modules, "
            "which no accelerator has left: pass offload_buffers=True, or give an accelerator that much more"
        )
        warnings.warn(text, UserWarning, stacklevel=4)
    for device, nbytes in attempt.minima.items():
        _LOG.info(
            "`%s` holds nothing due to insufficient memory: at least %d bytes are needed there",
            plan.devices[device].name,
            nbytes,
        )
    if plan.tree is not None and (warning := untied(model, plan.tree)) is not None:
        _LOG.warning("%s", warning.message)

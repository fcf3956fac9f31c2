"""The dict accelerate and transformers call ``device_map``, and the same as JSON.

Both libraries look a tensor up differently (accelerate walks to the nearest key above it,
transformers tries keys as regular expressions, deepest first), so nested keys mean different things
to them. What is written here is flat: each tensor is under exactly one key, and all readers agree.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Final

from ..ir import (
    CPU,
    DISK,
    Diagnostic,
    ModuleTree,
    Plan,
    PlanError,
    atomic_modules,
    device_type,
    is_accelerator,
    unit_of_tensors,
    verify,
)
from ..ir.names import upwards
from ..ir.rules.planfile import (
    DEVICE_MAP_LOSES,
    DEVICE_MAP_NEEDS_MODULES,
    UNPLACED_UNIT,
)
from ..ir.values import A_PLAN, require
from ..ir.wording import listed

_NOTHING, _MIXED = "", "*"  # neither is the name of a device
_SPECIAL: Final = re.compile(r"[\\^$*+?()\[\]{}|]")


def to_device_map(plan: Plan) -> dict[str, int | str]:
    """Return the device each module is stored on, in accelerate's keys and values.

    With a module table the keys are the largest modules that are on one device as a whole (``""``
    for the whole model), and the direct tensors of modules that are not. Raises `PlanError` for a
    plan that no device_map can hold.
    """
    require("plan", plan, Plan, A_PLAN)
    refused = [*_refusals(plan)]
    if refused:
        raise PlanError(refused)
    if plan.tree is None:
        return {unit.path: _value(unit.store) for unit in plan.units if unit.store}
    return {path: _value(store) for path, store in _flat(plan, plan.tree)}


def device_map_diagnostics(plan: Plan) -> tuple[Diagnostic, ...]:
    """Say what of a plan its device_map cannot hold: errors if there is none, warnings for losses."""
    refused = tuple(_refusals(plan))
    return refused or (
        *_lost_runs(plan),
        *_lost_visits(plan),
        *_lost_folders(plan),
        *_nested_keys(plan),
        *_special_keys(plan),
    )


def emit_device_map(plan: Plan) -> bytes:
    """Write the device_map as JSON."""
    return (json.dumps(to_device_map(plan), indent=2) + "\n").encode()


def _flat(plan: Plan, tree: ModuleTree) -> Iterator[tuple[str, str]]:
    """Yield disjoint keys in tree order that cover every tensor."""
    owner = unit_of_tensors(tree, plan.units)
    if -1 in owner:
        raise PlanError(verify(plan))
    stores = [plan.units[index].store or "" for index in owner]
    whole = _device_of_modules(plan, tree, stores)
    module = 0
    while module < len(tree):
        if whole[module] != _MIXED:
            if whole[module] != _NOTHING:
                yield tree.paths[module], whole[module]
            module = tree.ends[module]
            continue
        for tensor in tree.own_tensors(module):
            yield tree.tensor_paths[tensor], stores[tensor]
        module += 1


def _device_of_modules(plan: Plan, tree: ModuleTree, stores: list[str]) -> list[str]:
    """Return the one device of each module's subtree, or that there is none or several."""
    found = [_NOTHING] * len(tree)
    for unit in plan.units:
        module = tree.module_index.get(unit.path)
        if module is not None and not tree.tensors(module):
            found[module] = unit.store or ""
    for module in range(len(tree) - 1, -1, -1):
        here = found[module]
        for tensor in tree.own_tensors(module):
            here = _joined(here, stores[tensor])
        found[module] = here
        if module:
            found[tree.parents[module]] = _joined(found[tree.parents[module]], here)
    return found


def _joined(first: str, second: str) -> str:
    if second in {first, _NOTHING}:
        return first
    return second if first == _NOTHING else _MIXED


def _value(store: str | None) -> int | str:
    """Return accelerate's spelling of a device: ``cuda:1`` is 1, hosts and the cpu's index are dropped."""
    name = (store or "").rpartition("/")[2]
    if not is_accelerator(name):
        return device_type(name)
    kind, _, index = name.partition(":")
    return int(index) if kind == "cuda" and index else name


def _refusals(plan: Plan) -> Iterator[Diagnostic]:
    unplaced = [unit.path for unit in plan.units if unit.store is None]
    if unplaced:
        message = f"{paths_in_words(unplaced)} {'has' if len(unplaced) == 1 else 'have'} no device yet"
        yield Diagnostic(UNPLACED_UNIT, message, help="compile the plan, or add `place` lines")
    patterns = [unit.path for unit in plan.units if "*" in unit.path] if plan.tree is None else []
    if patterns:
        message = f"a device_map has no patterns, the plan has {paths_in_words(patterns)}"
        yield Diagnostic(DEVICE_MAP_NEEDS_MODULES, message, help="compile the plan with its model")
    hosts = sorted({unit.store.rpartition("/")[0] for unit in plan.units if unit.store})
    if len(hosts) > 1:
        named = listed([f"`{host}`" if host else "this machine" for host in hosts])
        message = f"a device_map describes one machine, the plan uses {len(hosts)}: {named}"
        yield Diagnostic(DEVICE_MAP_NEEDS_MODULES, message, help="write it as `.msgpack` or `.plan`")


def _main_device(plan: Plan) -> str:
    """Return where accelerate runs what is stored on the cpu or the disk."""
    used = {unit.store for unit in plan.units if unit.store and is_accelerator(unit.store)}
    return min(used, key=device_order, default=CPU)


def device_order(name: str) -> tuple[int, str, int]:
    """Sort accelerators by kind and index, then the cpu, then disks."""
    kind = device_type(name)
    index = name.rpartition(":")[2]
    return (
        ((CPU, DISK).index(kind) + 1 if kind in {CPU, DISK} else 0),
        kind,
        int(index) if index.isdigit() else 0,
    )


def _lost_runs(plan: Plan) -> Iterator[Diagnostic]:
    main = _main_device(plan)
    lost: dict[tuple[str, str], list[str]] = {}
    for unit in plan.units:
        store, run = unit.store or "", unit.run or ""
        implied = store if is_accelerator(store) else main
        if run not in {"", implied}:
            lost.setdefault((run, implied), []).append(unit.path)
    for (run, implied), paths in lost.items():
        verb = "runs" if len(paths) == 1 else "run"
        message = f"{paths_in_words(paths)} {verb} on `{run}`, by a device_map it would be `{implied}`"
        yield Diagnostic(
            DEVICE_MAP_LOSES, message, help="load the `.msgpack` or `.plan` file with `load_model`"
        )


def _lost_visits(plan: Plan) -> Iterator[Diagnostic]:
    """Warn of parts on another device than the module around them that is never split.

    Its own forward works with what they make, and by a device_map nobody brings that back.
    """
    if plan.tree is None:
        return
    runs = {unit.path: unit.run for unit in plan.units}
    whole = {plan.tree.paths[module] for module in atomic_modules(plan.tree, plan.constraints)}
    away: list[str] = []
    for unit in plan.units:
        around = [path for path in upwards(unit.path) if path != unit.path]
        home = next((path for path in around if path in runs), None)
        if home is not None and runs[home] != unit.run and not whole.isdisjoint(around):
            away.append(unit.path)
    if away:
        verb = "lies" if len(away) == 1 else "lie"
        message = f"{paths_in_words(away)} {verb} apart from the module that calls it"
        message = message if len(away) == 1 else message.removesuffix("it") + "them"
        note = "a device_map brings no results back, so two devices would meet in that module"
        help_ = "load the `.msgpack` or `.plan` file with `load_model`"
        yield Diagnostic(DEVICE_MAP_LOSES, message, notes=(note,), help=help_)


def _lost_folders(plan: Plan) -> Iterator[Diagnostic]:
    used = {unit.store for unit in plan.units}
    for device in plan.devices:
        if device.at is not None and device.name in used:
            message = f"a device_map cannot say that `{device.name}` is the folder `{device.at}`"
            yield Diagnostic(
                DEVICE_MAP_LOSES, message, help=f"pass `offload_folder={device.at!r}` with the device_map"
            )


def _nested_keys(plan: Plan) -> Iterator[Diagnostic]:
    if plan.tree is not None:
        return
    keys = {unit.path for unit in plan.units}
    for path in sorted(keys):
        above = path
        while above:
            above = above.rpartition(".")[0]
            if above in keys:
                outer = f"`{above}`" if above else "the whole model"
                message = f"`{path}` lies within {outer}, and readers of device_maps disagree about that"
                note = f"transformers would also put what starts with the letters `{path}` there"
                yield Diagnostic(
                    DEVICE_MAP_LOSES,
                    message,
                    notes=(note,),
                    help="compile it with the model, then keys do not nest",
                )
                return


def _special_keys(plan: Plan) -> Iterator[Diagnostic]:
    if not any(_SPECIAL.search(unit.path) for unit in plan.units) and (
        plan.tree is None or not any(_SPECIAL.search(name) for name in set(plan.tree.names))
    ):
        return
    special = [key for key in to_device_map(plan) if _SPECIAL.search(key)]
    if special:
        names = paths_in_words(special)
        message = f"transformers reads keys as regular expressions and would misread {names}"
        yield Diagnostic(
            DEVICE_MAP_LOSES, message, help="load the `.msgpack` or `.plan` file with `load_model`"
        )


def paths_in_words(paths: list[str]) -> str:
    """Name the first three of some paths for a message."""
    return listed([f"`{path}`" if path else "the whole model" for path in paths], 3)

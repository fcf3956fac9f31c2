"""Pipelines planned and loaded: the part that is called most gets the accelerators first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...ir import CPU, DISK, Diagnostic, Model, Never, Plan, PlanError, device_type, is_accelerator, is_within
from ...ir.rules.configs import CONFIG_FAILED

if TYPE_CHECKING:
    from torch import nn

    from ...ir import Device


def busiest_first(
    busiest: tuple[str, ...],
    devices: tuple[Device, ...] | None,
    place: Callable[[tuple[Plan, ...]], Plan],
) -> Plan:
    """Place a model; of a pipeline, the part that is called most stays on the accelerators if it fits there.

    The other parts are called once where it is called in every step, so what has to be brought is theirs.
    """
    slow = [CPU] if devices is None else [d.name for d in devices if device_type(d.name) in {CPU, DISK}]
    cards = devices is None or any(is_accelerator(device.name) for device in devices)
    if not busiest or not slow or not cards:
        return place(())
    rules = tuple(Never(name, device) for name in busiest for device in slow)
    try:
        plan = place((Plan(Model(""), constraints=rules),))
    except PlanError:  # it does not fit, or somebody wants it elsewhere: then as any model
        return place(())
    ours = (replace(rule, added=True) if rule in rules else rule for rule in plan.constraints)
    return replace(plan, constraints=tuple(ours))


def part_of(plan: Plan, name: str) -> Plan:
    """Return the plan of one part of a pipeline, its paths as the part itself has them."""
    own = [unit for unit in plan.units if is_within(unit.path, name)]
    around = [unit for unit in plan.units if not unit.path]
    units = own if any(unit.path == name for unit in own) else [*around, *own]
    units = [replace(unit, path=unit.path.removeprefix(name).removeprefix(".")) for unit in units]
    return Plan(Model(name), plan.devices, plan.options, units=tuple(units), ledger=plan.ledger)


def load_parts(plan: Plan, parts: Mapping[str, nn.Module], folder: Path | None, **loading: Any) -> None:  # noqa: ANN401
    """Load every part by its lines of the plan, from its own folder; None moves the values they have."""
    from ..loading import load_model

    for name, part in parts.items():
        load_model(part_of(plan, name), part, None if folder is None else folder / name, **loading)


def load_pipeline(
    folder: Path,
    compiled: Callable[[Path], Plan],
    *,
    dtype: str | None = None,
    **loading: Any,  # noqa: ANN401  # what `load_model` takes
) -> Any:  # noqa: ANN401  # a pipeline of diffusers
    """Load a pipeline's folder by the plan that ``compiled`` returns; diffusers loads what is no model.

    Raises:
        PlanError: a part cannot be built or loaded, or diffusers cannot put the pipeline together.

    """
    from ..sources.pipelines import absent_parts, build_part, part_folders

    plan = compiled(folder)
    parts = {name: build_part(inner, dtype) for name, inner in part_folders(folder)}
    load_parts(plan, parts, folder, **loading)
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    kind: Any = DiffusionPipeline
    absent = {name: None for name in absent_parts(folder) if name not in parts}
    try:
        return kind.from_pretrained(folder, local_files_only=True, **absent, **parts)
    except Exception as error:
        message = f"diffusers cannot put the pipeline of `{folder}` together"
        words = (str(error).strip().splitlines() or [""])[0][:300]
        notes = (f"{type(error).__name__}: {words}",)
        raise PlanError([Diagnostic(CONFIG_FAILED, message, notes=notes)]) from error

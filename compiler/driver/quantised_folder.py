"""A folder with quantised weights: transformers' own quantizer makes them, the plan says where they are.

What stays on accelerators, or all on one device, the quantizer puts there itself. Where a part rests or runs
on the host, it makes everything there, and the parts are moved and streamed as those of a model that was
quantised in code. What cannot be so is refused before anything is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ...backends import to_device_map
from ...ir import CPU, DISK, Diagnostic, Plan, PlanError, Unit, device_type, human_size, is_accelerator
from ...ir.names import upwards
from ...ir.rules.loading import NO_MEMORY, OPAQUE_WEIGHTS
from ..machine.host_memory import available_memory
from ..sources.checkpoint import read_config
from ..sources.unpacking import method_of
from .from_transformers import loaded_by

if TYPE_CHECKING:
    from torch import nn

_PLAIN: Final = frozenset({"fp8", "torchao", "quanto", "gguf"})
"""Methods whose weights are plain tensors, or made of such: they compute the same wherever those are."""
_REASONS: Final = {
    "bitsandbytes": "keeps a state beside its weights that torch does not show",
    "compressed-tensors": "unpacks all of them at once in the first forward",
    "mxfp4": "turns its weights into a layout of the device they are read on",
}
_DEVICE: Final = "chooses what computes for the device that weights are read on"


def quantizer_of(folder: Path) -> str | None:
    """Return the method that a folder's weights were quantised by; None for plain ones."""
    return method_of(read_config(folder / "config.json"))


def load_quantised(
    folder: Path,
    plan: Plan,
    auto_class: Any,  # noqa: ANN401  # a class of transformers, or None
    devices: Mapping[str, Any] | None,
    said: Mapping[str, str | None],
    **loading: Any,  # noqa: ANN401  # what `load_model` takes
) -> nn.Module:
    """Load a folder where the plan says; ``said`` goes to the quantizer's own loading.

    Raises:
        PlanError: the quantizer cannot do that; nothing has been read.

    """
    method = quantizer_of(folder) or ""
    _refuse_disk(folder, plan, method)
    if not _needs_moving(plan):
        names = {name: str(device) for name, device in (devices or {}).items()}
        places = {
            path: names.get(f"cuda:{place}" if isinstance(place, int) else place, place)
            for path, place in to_device_map(plan).items()
        }
        return _made(folder, auto_class, method, places, said)
    _refuse_method(folder, method)
    _refuse_short_memory(folder)
    model = _made(folder, auto_class, method, {"": CPU}, said)
    from ..loading import load_model

    return load_model(_for_live(plan, model), model, devices=devices, **loading)


def _needs_moving(plan: Plan) -> bool:
    """Say whether the quantizer's own loading would not do that: parts on the host it computes on cards."""
    places = {place for unit in plan.units for place in (unit.store, unit.run) if place}
    streams = any(unit.store != (unit.run or unit.store) for unit in plan.units)
    return streams or (len(places) > 1 and not all(is_accelerator(place) for place in places))


def _refuse_disk(folder: Path, plan: Plan, method: str) -> None:
    on_disk = [unit.path or "." for unit in plan.units if device_type(unit.store or CPU) == DISK]
    if on_disk:
        message = f"`{on_disk[0]}` of `{folder}` is quantised ({method}), and is planned for disk"
        notes = (f"units planned so: {len(on_disk)}; transformers' own quantizer makes weights in memory",)
        help_ = "compile the plan without a disk: `max_memory` that does not name it"
        raise PlanError([Diagnostic(OPAQUE_WEIGHTS, message, notes=notes, help=help_)])


def _refuse_method(folder: Path, method: str) -> None:
    if method not in _PLAIN:
        message = f"the weights of `{folder}` are quantised, and {method} {_REASONS.get(method, _DEVICE)}"
        notes = ("so they can neither be streamed nor be partly on the host",)
        help_ = "place all of it on accelerators, or all of it on the host: `max_memory` with those alone"
        raise PlanError([Diagnostic(OPAQUE_WEIGHTS, message, notes=notes, help=help_)])


def _refuse_short_memory(folder: Path) -> None:
    """Refuse what the host cannot hold: all of it is made there before parts are moved."""
    wanted = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    free = available_memory()[0]
    if wanted > free:
        message = f"`cpu` has {human_size(free)} free, the weights of `{folder}` take {human_size(wanted)}"
        notes = ("all of them are made on the host before they are moved to their places",)
        help_ = "place all of it on accelerators, or free memory of the host"
        raise PlanError([Diagnostic(NO_MEMORY, message, notes=notes, help=help_)])


def _made(
    folder: Path,
    auto_class: Any,  # noqa: ANN401
    method: str,
    places: Mapping[str, int | str],
    said: Mapping[str, str | None],
) -> nn.Module:
    message = f"transformers cannot load the quantised weights of `{folder}` ({method})"
    help_ = "what it says is in the note: `from_pretrained` with these places would say the same"
    return loaded_by(auto_class, folder, message, help_, device_map=places, **said)


def _for_live(plan: Plan, model: nn.Module) -> Plan:
    """Return the places of a plan for a model that was quantised: its tensors are others than the folder's.

    A unit that is a tensor which is not there any more speaks for the module it was of.
    """
    there = {name for name, _ in model.named_modules(remove_duplicate=False)}
    there |= {name for name, _ in model.named_parameters(remove_duplicate=False)}
    there |= {name for name, _ in model.named_buffers(remove_duplicate=False)}
    units: dict[str, Unit] = {}
    for unit in plan.units:
        near = next((path for path in upwards(unit.path) if path in there), "")
        path = unit.path if "*" in unit.path else near
        units.setdefault(path, replace(unit, path=path))
    start = next(iter(units.values())).run or CPU
    units.setdefault("", Unit("", start, start))
    return Plan(
        replace(plan.model, digest=None),
        plan.devices,
        units=tuple(units.values()),
        caches=plan.caches,
        ledger=plan.ledger,
    )

"""What a load is asked for, read once and before anything is touched: plan, model, files, dtypes, devices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from ...backends import read_plan
from ...ir import Diagnostic, Diagnostics, Plan, PlanError, Role
from ...ir.dtypes import parse_dtype
from ...ir.rules.loading import FOREIGN_HOOKS
from ...ir.values import refused
from ..sources.checkpoint_index import gguf_instead
from ..sources.live import checked_module

_HOOKS: Final = {
    "_hf_hook": ("accelerate", "call `accelerate.hooks.remove_hook_from_submodules(model)` first"),
    "_diffusers_hook": ("diffusers", "build the model again, without group offloading"),
    "ds_id": ("deepspeed", "build the model outside `deepspeed.zero.Init`"),
}
"""What other libraries leave on modules they move weights for, and the way out."""


@dataclass(frozen=True, slots=True)
class Dtypes:
    """What weights are converted to: one wish, and others for single tensors."""

    everywhere: torch.dtype | None = None
    single: Mapping[str, torch.dtype] = field(default_factory=dict)
    grows: bool = True
    """Whether weights may become larger; a wish of the plan was counted where it makes them smaller."""

    def of(self, paths: Iterable[str], dtype: torch.dtype, role: Role) -> torch.dtype:
        """Return what a tensor is converted to: only floating-point numbers that checkpoints hold change."""
        single = next((self.single[path] for path in paths if path in self.single), None)
        wanted = self.everywhere if single is None else single
        if wanted is None or not is_plain_float(dtype) or role is Role.TRANSIENT:
            return dtype
        larger = wanted.itemsize > dtype.itemsize
        return dtype if larger and single is None and not self.grows else wanted


def is_plain_float(dtype: torch.dtype) -> bool:
    """Say whether numbers of this kind may be converted to another precision; 8-bit floats may not."""
    return dtype.is_floating_point and dtype.itemsize >= 2


def asked_plan(given: object) -> Plan:
    """Return a plan, or the one a path leads to."""
    if isinstance(given, Plan):
        return given
    if isinstance(given, str | Path):
        try:
            return read_plan(given)
        except ValueError as error:  # a path no file can have
            raise _refused("plan", given, f"name a file: {error}") from None
    raise _refused("plan", given, "give a plan, or the path to one")


def asked_model(given: object) -> nn.Module:
    """Return the model, if nobody else moves its weights."""
    model = checked_module(given)
    for path, module in model.named_modules():
        for name, (library, help_) in _HOOKS.items():
            if name in vars(module):
                where = f"`{path}`" if path else "the model"
                message = f"{where} carries hooks of {library}, which would go on moving its weights"
                raise PlanError([Diagnostic(FOREIGN_HOOKS, message, help=help_)])
    return model


def asked_checkpoint(given: object) -> Path | None:
    """Return the path of a checkpoint; None without one."""
    if given is None:
        return None
    if not isinstance(given, str | Path):
        raise _refused("checkpoint", given, "give a safetensors file, an index of shards or a folder")
    try:
        Path(given).exists()
    except (OSError, ValueError) as error:
        raise _refused("checkpoint", given, f"name a file or a folder: {error}") from None
    if Path(given).suffix.lower() == ".gguf" and Path(given).is_file():
        raise PlanError([gguf_instead(Path(given))])
    return Path(given)


def asked_folder(given: object) -> Path:
    """Return the path of a folder that is loaded whole."""
    found = asked_checkpoint(given)
    if found is None:
        raise _refused("folder", given, "give a folder with a `config.json` or a `model_index.json`")
    return found


def asked_dtypes(given: object, plan: Plan) -> Dtypes:
    """Return the dtypes asked for, else those the plan was compiled for.

    A name that only makes sense while planning (``int4``) is left to who quantises the weights.
    """
    recorded = dict(plan.options)
    pairs = (part.rpartition("=")[::2] for part in recorded.get("special-dtypes", "").split(",") if part)
    single = {path: kind for path, text in pairs if (kind := _plain(text)) is not None}
    if given is None:
        return Dtypes(_plain(recorded.get("dtype", "")), single, grows=False)
    wanted: object = _plain(given) if isinstance(given, str) else given
    if not isinstance(wanted, torch.dtype) or not wanted.is_floating_point:
        raise _refused("dtype", given, "give a floating-point dtype of torch, such as `bfloat16`")
    return Dtypes(wanted, single)


def asked_name_of_dtype(given: object) -> str | None:
    """Return what a folder's weights become; None, as for ``auto``, is what transformers would choose."""
    if given is None or given == "auto":
        return None
    wanted: object = _plain(given) if isinstance(given, str) else given
    if not isinstance(wanted, torch.dtype) or not wanted.is_floating_point:
        raise _refused("dtype", given, "give a floating-point dtype of torch, such as `bfloat16`, or `auto`")
    return str(wanted).removeprefix("torch.")


def _plain(name: str) -> torch.dtype | None:
    found = getattr(torch, parse_dtype(name, Diagnostics()) or "", None)
    return found if isinstance(found, torch.dtype) and is_plain_float(found) else None


def asked_devices(given: object) -> Mapping[str, torch.device] | None:
    """Return the torch device that stands for each device of the plan."""
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise _refused("devices", given, "give torch devices by name: `{'cuda:0': 'cpu'}`")
    found: dict[str, torch.device] = {}
    for name, device in given.items():
        try:
            if not isinstance(device, str | torch.device):
                raise TypeError("neither a name nor a device")  # noqa: TRY301  # refused as any other
            found[str(name)] = torch.device(device)
        except Exception as error:  # noqa: BLE001  # torch says it in many ways
            help_ = f"give a device of torch for `{str(name)[:40]}`: {str(error).splitlines()[0][:80]}"
            raise _refused("devices", device, help_) from None
    return found


def check_rest(
    *, strict: object, map_memory: object, progress: object, materialize: object, diagnostics: object
) -> None:
    """Refuse values of the other arguments that are none of theirs."""
    for name, flag in (("strict", strict), ("map_memory", map_memory)):
        if type(flag).__name__ not in {"bool", "bool_"}:
            raise _refused(name, flag, "give True or False")
    if not (progress is None or isinstance(progress, bool) or callable(progress)):
        raise _refused("progress", progress, "give a function, True, False or None")
    if not (materialize is None or callable(materialize)):
        raise _refused("materialize", materialize, "give a function of a path and a tensor")
    if not (diagnostics is None or isinstance(diagnostics, Diagnostics)):
        raise _refused("diagnostics", diagnostics, "give a `compile_plan.ir.Diagnostics`")


def check_whole(*, auto_class: object, attn_implementation: object, **flags: object) -> None:
    """Refuse values of what only the load of a whole folder is asked that are none of theirs."""
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise _refused(name, flag, "give True or False")
    if not (auto_class is None or (isinstance(auto_class, type) and hasattr(auto_class, "from_pretrained"))):
        raise _refused("auto_class", auto_class, "give a class of transformers: `AutoModelForCausalLM`")
    if not (attn_implementation is None or isinstance(attn_implementation, str)):
        raise _refused("attn_implementation", attn_implementation, "give a name: `sdpa` or `eager`")


def _refused(name: str, value: object, help_: str) -> PlanError:
    return refused(name, _described(value), help_)


def _described(value: Any) -> str:  # noqa: ANN401
    if isinstance(value, str | int | float):
        text = str(value) if isinstance(value, str) else type(value).__name__
        return f"`{text[:60]}`"
    return f"a `{type(value).__name__}`"

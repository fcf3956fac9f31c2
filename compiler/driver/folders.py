"""A checkpoint by its headers: what transformers makes of its files, with the room that was asked for."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ...ir import Diagnostics, Model, Plan, device_type
from ..machine.budgets import devices_from
from ..passes.annotate_sizes import AnnotateSizes
from ..passes.apply_overrides import merge_override
from ..sources.checkpoint import read_checkpoint, read_config
from ..sources.config import check_config
from ..sources.config_numbers import WIDTHS, in_dtype_of
from ..sources.model_names import model_dtype
from ..sources.unpacking import depends_on_devices, method_of
from .options import settled
from .workload import cached_tokens, read_tokens, rows_of, with_asked_room, with_usual, written_tokens

if TYPE_CHECKING:
    from .options import Options

_LEAST: Final = {"fp8": (8, 9), "mxfp8": (8, 9), "mxfp4": (7, 5)}
"""What CUDA calls the capability of the oldest card that computes a method packed."""
_KERNELS: Final = {"mxfp4": ("kernels", "triton")}
"""The libraries it takes."""


def open_checkpoint(spec: str | Path, options: Options, diagnostics: Diagnostics) -> tuple[Plan, str | None]:
    """Return the lowered plan of a checkpoint, and the method its weights were quantised by, if any.

    Raises:
        PlanError: the files, or the configuration beside them, cannot be read.

    """
    folder = Path(spec) if Path(spec).is_dir() else Path(spec).parent
    check_config(folder)
    config, dtype = read_config(folder / "config.json"), plain_dtype(options)
    method = method_of(config)
    plan, index = read_checkpoint(
        spec,
        diagnostics,
        cache_tokens=cached_tokens(options),
        batch=rows_of(options),
        read=read_tokens(options) if options.used is not None else None,
        written=written_tokens(options),
        dtype=dtype,
        kinds=_kinds(options, method) if method is not None and depends_on_devices(config) else None,
    )
    said = in_dtype_of(config, dtype or model_dtype(config, index.tensors.values()))
    plan = with_asked_room(with_usual(plan, said, options, diagnostics), said, options, diagnostics)
    return plan if dtype is None else sized_in(plan, dtype, diagnostics), method


def sized_in(plan: Plan, dtype: str, diagnostics: Diagnostics) -> Plan:
    """Return a plan whose weights are as they are loaded in a dtype; some may stay in another on purpose."""
    told = replace(plan, options=(("dtype", dtype),))
    sized = plan.tree is not None and plan.tree.nbytes is not None
    return told if sized else AnnotateSizes().run(told, diagnostics)


def as_opened(options: Options, overrides: tuple[Plan, ...]) -> Options:
    """Return the options with the dtype and the devices that a compile ends up with: files are read so."""
    devices = options.devices
    if any(lines.devices for lines in overrides):
        merged = Plan(Model(""), devices_from(None, Diagnostics()) if devices is None else devices)
        for lines in overrides:
            merged = merge_override(merged, lines)
        devices = merged.devices
    return replace(options, devices=devices, dtype=settled(options, overrides, Diagnostics()).dtype)


def plain_dtype(options: Options) -> str | None:
    """Return the dtype that weights are loaded as, where it is one that models compute in."""
    return options.dtype if options.dtype in WIDTHS else None


def _kinds(options: Options, method: str) -> frozenset[str]:
    """Return the kinds of the devices there will be, without cards that do not compute a method packed."""
    found = options.devices
    devices = devices_from(None, Diagnostics()) if found is None else found
    kinds = frozenset(device_type(device.name) for device in devices)
    return kinds if _computed_by_card(method) else kinds - {"cuda"}


def _computed_by_card(method: str) -> bool:
    """Say whether the card torch sees computes a method packed, as transformers asks; none may be one."""
    torch = sys.modules.get("torch")  # planning from headers does not wait for it
    if torch is None or method not in _LEAST or not torch.cuda.is_available():
        return True
    able: bool = torch.cuda.get_device_capability() >= _LEAST[method]
    return able and all(find_spec(name) is not None for name in _KERNELS.get(method, ()))

"""Reading a device_map from JSON: a plan without budgets, or everything that is wrong with it."""

from __future__ import annotations

import json
import re
from pathlib import PurePath
from typing import Final

from ..ir import (
    CPU,
    Device,
    Diagnostic,
    Diagnostics,
    Model,
    Plan,
    PlanError,
    Reason,
    Unit,
    is_accelerator,
    near_device_name,
    read_device_name,
)
from ..ir.rules.planfile import INVALID_DEVICE_MAP, NOT_A_PLAN_FILE
from .device_map import device_order, paths_in_words

_SMALL: Final = 2**20
_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)


def read_device_map(data: bytes, name: str) -> Plan:
    """Read a device_map from JSON, alone or as ``{"model": NAME, "device_map": {...}}``.

    Offloaded modules get the run device accelerate would choose; devices have no budgets. Raises
    `PlanError` with everything that is wrong.
    """
    model, pairs = _entries(_parsed(data, name), name)
    diagnostics = Diagnostics()
    wrong: dict[str, list[str]] = {}
    places: dict[str, str] = {}
    for path, value in pairs:
        device = _device(value)
        if device is None:
            wrong.setdefault(_spelled(value), []).append(path)
        elif path in places:
            message = f"`{path}` stands twice in `{name}`"
            diagnostics.add(Diagnostic(INVALID_DEVICE_MAP, message, help="keep the entry that is true"))
        else:
            places[path] = device
    for value, paths in wrong.items():
        diagnostics.add(_no_device(value, paths))
    diagnostics.raise_errors()
    main = min(filter(is_accelerator, places.values()), key=device_order, default=CPU)
    devices = sorted({*places.values(), main}, key=device_order)
    units = [
        Unit(path, device, device if is_accelerator(device) else main, Reason.WRITTEN)
        for path, device in places.items()
    ]
    return Plan(
        Model(model),
        tuple(Device(device, None, origin="device_map") for device in devices),
        units=tuple(units),
    )


def _parsed(data: bytes, name: str) -> object:
    """Return the JSON value; its objects are tuples of pairs, so that repeated keys are seen."""
    _check_nesting(data, name)
    try:
        return json.loads(data, object_pairs_hook=tuple)
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, json.JSONDecodeError) else "it cannot be read"
        message = f"`{name}` is not JSON: {reason[:1].lower()}{reason[1:]}"
        raise PlanError([Diagnostic(NOT_A_PLAN_FILE, message, help="check the file")]) from None


def _check_nesting(data: bytes, name: str) -> None:
    """Refuse a large file of lists or of many objects before it is read: each bracket would cost 20 bytes."""
    if len(data) < _SMALL:
        return
    brackets = _STRING.sub(b"", data)
    if b"[" in brackets or brackets.count(b"{") > 2:
        message = f"`{name}` holds lists or objects where a device_map has names of devices"
        raise PlanError([Diagnostic(INVALID_DEVICE_MAP, message, help='write `{"": 0}` for one device')])


def _entries(value: object, name: str) -> tuple[str, tuple[tuple[str, object], ...]]:
    model = PurePath(name).stem
    if isinstance(value, tuple):
        fields = dict(value)
        inner = fields.get("device_map")
        if isinstance(inner, tuple):
            given = fields.get("model")
            return given if isinstance(given, str) else model, inner
        if value:
            return model, value
    found = "an empty object" if value == () else "something else"
    message = f"`{name}` must hold an object from module names to devices, it holds {found}"
    raise PlanError([Diagnostic(INVALID_DEVICE_MAP, message, help='write `{"": 0}` for one device')])


def _device(value: object) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    return read_device_name(str(value))


def _spelled(value: object) -> str:
    """Write a JSON value for a message, shortened."""
    text = "a list or object" if isinstance(value, list | tuple) else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _no_device(value: str, paths: list[str]) -> Diagnostic:
    near = near_device_name(value.strip('"'))
    help_ = f"did you mean `{json.dumps(near)}`?" if near else "write a number for a GPU, or a name"
    note = 'devices are numbers (`0` is `cuda:0`), `"cpu"`, `"disk"`, `"mps"`, `"cuda:1"`, `"xpu:0"`, ...'
    message = f"{value} is no device, it stands for {paths_in_words(paths)}"
    return Diagnostic(INVALID_DEVICE_MAP, message, notes=(note,), help=help_)

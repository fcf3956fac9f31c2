"""The machine file: what `--calibrate --save` measured, kept in the user's configuration folder.

Later compiles on the machine read it. A device that is another product now is not believed to be as
fast, and a file that cannot be read is named and left alone.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any, Final

from ...ir import CPU, DISK, Device, Diagnostic, Diagnostics, ModuleTree
from ...ir.dtypes import dtype_names
from ...ir.rules.budgets import BAD_MACHINE_FILE
from .calibration import Products, Speed, host_product
from .products import said_product, with_published

FORMAT: Final = "compile-plan machine"
VERSION: Final = 1
MEASURED: Final = "measured here"
"""What a plan says of where such rates came from."""
_LARGEST: Final = 1 << 20
"""Bytes of a file that is read at all."""
_MOST: Final = 10**18
"""No device moves as many bytes or does as many operations a second."""


def machine_path() -> Path:
    """Return where the file is: under ``XDG_CONFIG_HOME``, or ``~/.config``.

    A variable that is no absolute path is as good as none: else each folder would have a file of its own.
    A user without a home has it at the root, where a container's user may or may not write.
    """
    told, home = Path(os.environ.get("XDG_CONFIG_HOME", "")), Path(os.path.expanduser("~"))  # noqa: PTH111  # never raises
    usual = home / ".config" if home.is_absolute() else Path("/.config")
    return (told if told.is_absolute() else usual) / "compile-plan" / "machine.json"


def encoded(speeds: Iterable[Speed]) -> str:
    """Return the text of a machine file."""
    devices = {
        speed.name: {
            "product": speed.product,
            "memory": speed.memory,
            "link": speed.link,
            "hop": speed.hop,
            "launch": speed.launch,
            "products": {dtype: rates._asdict() for dtype, rates in speed.products.items()},
        }
        for speed in speeds
    }
    return json.dumps({"format": FORMAT, "version": VERSION, "devices": devices}, indent=2) + "\n"


def read_machine(path: Path, diagnostics: Diagnostics) -> tuple[Speed, ...]:
    """Return what a machine file says; nothing where there is none, with a warning where it is not one."""
    try:
        if not os.path.lexists(path):
            return ()
        if not path.is_file():
            raise ValueError("it is no regular file")  # noqa: TRY301
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"it is larger than {_LARGEST} bytes")  # noqa: TRY301
        return tuple(_decoded(json.loads(path.read_text(encoding="utf-8"))))
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        reason = _reason(error)
        message = f"the machine file `{path}` cannot be used: {reason}"
        help_ = "write it anew: `compile-plan --calibrate --save`"
        diagnostics.add(Diagnostic(BAD_MACHINE_FILE, message, help=help_))
        return ()


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"it has no `{str(error.args[0])[:40]}`"
    if isinstance(error, TypeError | AttributeError):
        return "it is not laid out as one"
    if isinstance(error, UnicodeError):
        return "it is no text"
    return getattr(error, "strerror", None) or str(error).splitlines()[0][:200]


def _decoded(content: Any) -> Iterable[Speed]:  # noqa: ANN401
    if content["format"] != FORMAT or content["version"] != VERSION:
        msg = f"it is no `{FORMAT}` of version {VERSION}"
        raise ValueError(msg)
    for name, row in content["devices"].items():
        products = {
            _dtype(dtype): Products(_whole(rates["reads"]), _whole(rates["flops"]), _few(rates))
            for dtype, rates in row["products"].items()
        }
        memory, link = (None if row[key] is None else _whole(row[key]) for key in ("memory", "link"))
        hop = None if row["hop"] is None else _between(1e-9, row["hop"], 3600)
        launch = None if row.get("launch") is None else _between(1e-9, row["launch"], 1)  # earlier: none
        yield Speed(str(name), str(row["product"]), memory, link, hop, products, launch)


def _dtype(word: Any) -> str:  # noqa: ANN401
    if word not in dtype_names():
        msg = f"`{str(word)[:40]}` is no dtype"
        raise ValueError(msg)
    return str(word)


def _few(rates: Any) -> int | None:  # noqa: ANN401  # files of earlier versions have none
    return None if rates.get("few") is None else _whole(rates["few"])


def _whole(value: Any) -> int:  # noqa: ANN401
    return int(_between(1, value, _MOST))


def _between(low: float, value: Any, high: float) -> float:  # noqa: ANN401
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        msg = f"`{str(value)[:40]}` is no rate"
        raise ValueError(msg)
    return float(value)


def with_measured(
    devices: Iterable[Device], speeds: Iterable[Speed], dtype: str | None
) -> tuple[Device, ...]:
    """Return the devices with what was measured for weights of a dtype; what a line states stays."""
    known = {speed.name: speed for speed in speeds}
    return tuple(_with_measured(device, known.get(device.name), dtype) for device in devices)


def _with_measured(device: Device, speed: Speed | None, dtype: str | None) -> Device:
    if speed is None or (speed.product and said_product(device) not in {"", speed.product}):
        return device  # another product is in its place now
    products = speed.products.get(dtype or "") or next(iter(speed.products.values()), None)
    by_dtype = tuple((name, rates.flops) for name, rates in sorted(speed.products.items()))
    rated = replace(
        device,
        bandwidth=device.bandwidth or (speed.memory if products is None else products.reads),
        few=device.few or (None if products is None else products.few),
        link=device.link or speed.link,
        latency=device.latency or (None if speed.hop is None else round(speed.hop * 1e9)),
        launch=device.launch or (None if speed.launch is None else round(speed.launch * 1e9)),
        dtype_flops=device.dtype_flops or (() if device.flops else by_dtype),
    )
    return rated if rated == device else replace(rated, measured=MEASURED)


def with_rates(devices: Iterable[Device], dtype: str | None, diagnostics: Diagnostics) -> tuple[Device, ...]:
    """Return the devices with the rates that are known: stated, measured here, or published."""
    speeds = _of_this_host(read_machine(machine_path(), diagnostics))
    return with_published(with_measured(devices, speeds, dtype))


def _of_this_host(speeds: tuple[Speed, ...]) -> tuple[Speed, ...]:
    """Return what was measured without host and disk where that was a host with another processor.

    Configuration folders are shared by the machines of a network; cards say themselves what they are.
    """
    told = next((speed.product for speed in speeds if speed.name == CPU), "")
    here = told and host_product()
    if not here or here == told:
        return speeds
    return tuple(speed for speed in speeds if speed.name not in {CPU, DISK})


def main_dtype(tree: ModuleTree) -> str | None:
    """Return the dtype most bytes of a model have."""
    totals: Counter[str] = Counter()
    for dtype, shape, nbytes in zip(tree.dtypes, tree.shapes, tree.nbytes or (), strict=False):
        totals[dtype] += nbytes or prod(shape)
    return max(totals, key=lambda each: (totals[each], each), default=None)

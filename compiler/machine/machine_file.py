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
from math import isfinite, prod
from pathlib import Path
from typing import Any, Final

from ...ir import Device, Diagnostic, Diagnostics, ModuleTree
from ...ir.rules.budgets import BAD_MACHINE_FILE
from .calibration import Products, Speed
from .products import said_product, with_published

FORMAT: Final = "compile-plan machine"
VERSION: Final = 1
MEASURED: Final = "measured here"
"""What a plan says of where such rates came from."""
_LARGEST: Final = 1 << 20
"""Bytes of a file that is read at all."""


def machine_path() -> Path:
    """Return where the file is: under ``XDG_CONFIG_HOME``, or ``~/.config``."""
    folder = os.environ.get("XDG_CONFIG_HOME") or str(Path("~/.config").expanduser())
    return Path(folder) / "compile-plan" / "machine.json"


def encoded(speeds: Iterable[Speed]) -> str:
    """Return the text of a machine file."""
    devices = {
        speed.name: {
            "product": speed.product,
            "memory": speed.memory,
            "link": speed.link,
            "hop": speed.hop,
            "products": {dtype: rates._asdict() for dtype, rates in speed.products.items()},
        }
        for speed in speeds
    }
    return json.dumps({"format": FORMAT, "version": VERSION, "devices": devices}, indent=2) + "\n"


def read_machine(path: Path, diagnostics: Diagnostics) -> tuple[Speed, ...]:
    """Return what a machine file says; nothing where there is none, with a warning where it is not one."""
    try:
        if not path.is_file():
            return ()
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"it is larger than {_LARGEST} bytes")  # noqa: TRY301
        return tuple(_decoded(json.loads(path.read_text(encoding="utf-8"))))
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0][:200]
        message = f"the machine file `{path}` cannot be used: {reason}"
        help_ = "write it anew: `compile-plan --calibrate --save`"
        diagnostics.add(Diagnostic(BAD_MACHINE_FILE, message, help=help_))
        return ()


def _decoded(content: Any) -> Iterable[Speed]:  # noqa: ANN401
    if content["format"] != FORMAT or content["version"] != VERSION:
        msg = f"it is no `{FORMAT}` of version {VERSION}"
        raise ValueError(msg)
    for name, row in content["devices"].items():
        products = {
            str(dtype): Products(_whole(rates["reads"]), _whole(rates["flops"]), _few(rates))
            for dtype, rates in row["products"].items()
        }
        memory, link = (None if row[key] is None else _whole(row[key]) for key in ("memory", "link"))
        hop = None if row["hop"] is None else _positive(row["hop"])
        yield Speed(str(name), str(row["product"]), memory, link, hop, products)


def _few(rates: Any) -> int | None:  # noqa: ANN401  # files of earlier versions have none
    return None if rates.get("few") is None else _whole(rates["few"])


def _whole(value: Any) -> int:  # noqa: ANN401
    return int(_positive(value))


def _positive(value: Any) -> float:  # noqa: ANN401
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or value <= 0:
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
        dtype_flops=device.dtype_flops or (() if device.flops else by_dtype),
    )
    return rated if rated == device else replace(rated, measured=MEASURED)


def with_rates(devices: Iterable[Device], dtype: str | None, diagnostics: Diagnostics) -> tuple[Device, ...]:
    """Return the devices with the rates that are known: stated, measured here, or published."""
    return with_published(with_measured(devices, read_machine(machine_path(), diagnostics), dtype))


def main_dtype(tree: ModuleTree) -> str | None:
    """Return the dtype most bytes of a model have."""
    totals: Counter[str] = Counter()
    for dtype, shape, nbytes in zip(tree.dtypes, tree.shapes, tree.nbytes or (), strict=False):
        totals[dtype] += nbytes or prod(shape)
    return max(totals, key=lambda each: (totals[each], each), default=None)

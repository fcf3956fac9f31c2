"""``--calibrate``: how fast this machine is at what the runtime does, measured, as a machine description.

What is measured is printed as `device` lines, ready for ``--override``; ``--save`` keeps it where later
compiles on this machine find it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from ...backends.plan_files import write_bytes
from ...grammar import print_plan
from ...ir import DISK, Device, Diagnostics, Model, Plan
from ..machine.calibration import Sizes, Speed, measure
from ..machine.machine_file import encoded, machine_path, with_measured
from ..machine.this_machine import this_machine
from .console import Console
from .named_machines import keep_machine

SIZES: Final = Sizes()
_PRINTED: Final = "bfloat16"
"""The dtype whose rates the lines state as the device's own; other dtypes are beside them."""


def calibrate(console: Console, *, save: str | None) -> int:
    """Print this machine's devices with their rates; ``save`` keeps them, under a name if it is one."""
    diagnostics = Diagnostics()
    devices = this_machine(diagnostics)
    folder = tempfile.gettempdir()
    speeds = tuple(measure(devices, folder, SIZES))
    console.warnings(diagnostics)
    rated = with_measured((*devices, Device(DISK, None, at=folder)), speeds, _PRINTED)
    text = print_plan(Plan(Model("this machine"), devices=tuple(replace(d, origin="") for d in rated)))
    kept = [line for line in text.splitlines() if line.startswith("device ")]
    remarks = [f"# {remark}" for remark in _remarks(speeds)]
    head = "# measured here; use it with --override"
    if save:
        path = keep_machine(save, rated)
        head = f"# measured here and kept in {path}; plan for it anywhere with --machine {save}"
    elif save is not None:
        path = machine_path()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(encoded(speeds).encode(), path)
        head = f"# measured here and kept in {path}; later compiles on this machine read it"
    console.text("\n".join([head, *remarks, *kept]) + "\n")
    return 0


def _remarks(speeds: tuple[Speed, ...]) -> Iterator[str]:
    """Yield what no device line has a word for: rates of reading weights, by dtype."""
    for speed in speeds:
        for dtype, rates in speed.products.items():
            yield f"{speed.name} {dtype}: weights meet one row at {rates.reads / 1e9:.2g} GB/s"

"""``--calibrate``: how fast this machine is at what the runtime does, measured, as a machine description.

What is measured is printed as `device` lines, ready for ``--override``; ``--save`` keeps it where later
compiles on this machine find it. Started by torchrun on several machines it measures all of them and the
roads between, and the first process prints one description.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from ...backends.plan_files import write_bytes
from ...grammar import print_plan
from ...ir import DISK, Device, Diagnostic, Diagnostics, Link, Model, Plan, PlanError, human_size
from ...ir.rules.budgets import NOT_MEASURED
from ...ir.rules.usage import BAD_OPTION_VALUE
from ..machine.calibration import Sizes, Speed, measure
from ..machine.machine_file import encoded, machine_path, with_measured
from ..machine.this_machine import on_host, this_machine
from .console import Console
from .named_machines import keep_machine

if TYPE_CHECKING:
    from ..loading.hosts import Wire

SIZES: Final = Sizes()
_PRINTED: Final = "bfloat16"
"""The dtype whose rates the lines state as the device's own; other dtypes are beside them."""


@dataclass(frozen=True, slots=True)
class _Measured:
    """What was measured of one machine."""

    devices: tuple[Device, ...]
    speeds: tuple[Speed, ...]


def calibrate(console: Console, *, save: str | None) -> int:
    """Print this machine's devices with their rates; ``save`` keeps them, under a name if it is one."""
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        from ..loading.hosts import others

        wire = others()
        if wire is not None:
            return _calibrate_all(console, wire, save=save)
    here = _measured(console)
    head = "# measured here; use it with --override"
    try:
        if save:
            path = keep_machine(save, here.devices)
            head = f"# measured here and kept in {path}; plan for it anywhere with --machine {save}"
        elif save is not None:
            path = machine_path()
            write_bytes(encoded(here.speeds).encode(), path, folders=True)
            head = f"# measured here and kept in {path}; later compiles on this machine read it"
    finally:  # what took a minute to measure is printed even where it cannot be kept
        _print(console, [head, *_remarks(here.speeds)], here.devices)
    return 0


def _measured(console: Console) -> _Measured:
    diagnostics = Diagnostics()
    devices = this_machine(diagnostics)
    folder = _writable_folder()
    speeds = tuple(measure(devices, folder, SIZES))
    missed = (speed.name for speed in speeds if speed.link is speed.memory is None and not speed.products)
    diagnostics.extend(_not_measured(name, folder) for name in missed)
    console.warnings(diagnostics)
    rated = with_measured((*devices, Device(DISK, None, at=folder)), speeds, _PRINTED)
    return _Measured(tuple(replace(device, origin="") for device in rated), speeds)


def _writable_folder() -> str:
    """Return where the disk is measured: the folder for temporary files, else the one we are in."""
    try:
        return tempfile.gettempdir()
    except OSError:  # none of the usual ones takes a file
        return os.curdir


def _not_measured(name: str, folder: str) -> Diagnostic:
    if name == DISK:
        message = f"the disk was not measured: `{folder}` does not take a file of {human_size(SIZES.copied)}"
        return Diagnostic(NOT_MEASURED, message, help="set `TMPDIR` to a folder with room on that disk")
    message = f"`{name}` was not measured: it had no room for {human_size(SIZES.copied)} twice"
    return Diagnostic(NOT_MEASURED, message, help="end what uses it, and calibrate again")


def _calibrate_all(console: Console, wire: Wire, *, save: str | None) -> int:
    """Measure every machine, those processes that share one in turn, and then each road alone."""
    from ..loading.hosts import in_turn, machines_of, measured_links, names_of

    if save == "":
        message = "`--save` without a name keeps what one machine is, and this measures several"
        help_ = "give a name, `--save lab`; the first process keeps all of them under it"
        raise PlanError([Diagnostic(BAD_OPTION_VALUE, message, help=help_)])
    names, machines = names_of(wire, None), machines_of(wire)
    here: list[_Measured] = []
    in_turn(wire, machines, lambda: here.append(_measured(console)))
    links = tuple(measured_links(wire, names))
    found: list[_Measured] = wire.exchange(here[0])
    if wire.me:
        return 0
    devices = tuple(on_host(device, names[n]) for n, one in enumerate(found) for device in one.devices)
    head = f"# measured on {len(names)} hosts; use it with --override"
    if save:
        path = keep_machine(save, devices, links)
        head = f"# measured on {len(names)} hosts and kept in {path}; plan for them with --machine {save}"
    remarks = [line for n, one in enumerate(found) for line in _remarks(one.speeds, f"{names[n]}/")]
    _print(console, [head, *_shared(names, machines), *remarks], devices, links)
    return 0


def _shared(names: Sequence[str], machines: Sequence[str]) -> Iterator[str]:
    for machine in dict.fromkeys(machines):
        here = [name for name, other in zip(names, machines, strict=True) if other == machine]
        if len(here) > 1:
            yield f"# {', '.join(here)} are processes of one machine: what it has is written for each of them"


def _print(
    console: Console, head: Sequence[str], devices: tuple[Device, ...], links: tuple[Link, ...] = ()
) -> None:
    text = print_plan(Plan(Model("measured"), devices=devices, links=links))
    kept = [line for line in text.splitlines() if line.startswith(("device ", "link "))]
    console.text("\n".join([*head, *kept]) + "\n")


def _remarks(speeds: tuple[Speed, ...], host: str = "") -> Iterator[str]:
    """Yield what no device line has a word for: rates of reading weights, by dtype."""
    for speed in speeds:
        for dtype, rates in speed.products.items():
            yield f"# {host}{speed.name} {dtype}: weights meet one row at {rates.reads / 1e9:.2g} GB/s"

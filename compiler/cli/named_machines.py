"""Machines that are not this one, remembered by name: device and link lines in the configuration folder.

A description is a `.plan` text of its own, so that it can be read, edited, copied and kept beside a project.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

from ...ir import Device, Diagnostic, Diagnostics, Label, Link, Model, Plan, PlanError, Source, Span
from ...ir.near import near_name
from ...ir.rules.usage import BAD_OPTION_VALUE
from ..machine.machine_file import machine_path

_NAME: Final = re.compile(r"[A-Za-z0-9][\w-]{0,63}")
_LARGEST: Final = 1 << 20
"""Bytes of a description that is read at all."""


def machine_file(name: str) -> Path:
    """Return where a machine of this name is kept."""
    return machine_path().parent / "machines" / f"{name}.plan"


def remembered() -> list[str]:
    """Return the names of the machines that are kept, sorted."""
    return sorted(path.stem for path in machine_file("x").parent.glob("*.plan") if path.is_file())


def is_machine_name(name: str) -> bool:
    """Say whether a machine can be called that: letters, digits, `_` and `-`."""
    return _NAME.fullmatch(name) is not None


def keep_machine(name: str, devices: Iterable[Device], links: tuple[Link, ...] = ()) -> Path:
    """Write devices and the roads between them under a name and return the path.

    Raises:
        PlanError: it cannot be written.

    """
    from ...backends.plan_files import write_bytes
    from ...grammar import print_plan

    path = machine_file(name)
    plain = tuple(replace(device, origin="", measured="") for device in devices)
    write_bytes(print_plan(Plan(Model(name), devices=plain, links=links)).encode(), path, folders=True)
    return path


def read_named(name: str, diagnostics: Diagnostics) -> Plan:
    """Return the lines of a remembered machine, or of a `.plan` file; an empty plan where there is none."""
    from ...grammar import parse

    nothing = Plan(Model(""))
    path = Path(name) if name.lower().endswith(".plan") else machine_file(name)
    label = Label(Span(Source("--machine", name), 0, len(name)))
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST:
            diagnostics.add(_unknown(name, label))
            return nothing
        plan = parse(path.read_text(encoding="utf-8"), name=str(path))
    except PlanError as error:
        diagnostics.extend(error.diagnostics)
        return nothing
    except (OSError, ValueError) as error:
        message = f"the machine `{name}` cannot be read: {error}"
        diagnostics.add(Diagnostic(BAD_OPTION_VALUE, message, label, help="write it anew with `--save`"))
        return nothing
    if not plan.devices:
        message = f"`{path}` has no `device` line"
        diagnostics.add(Diagnostic(BAD_OPTION_VALUE, message, label, help="add `device cuda:0 memory 24GiB`"))
    origin = f"of machine {path.stem}"
    return replace(plan, devices=tuple(replace(device, origin=origin) for device in plan.devices))


def _unknown(name: str, label: Label) -> Diagnostic:
    known = remembered()
    near = near_name(name, known)
    listed = ", ".join(f"`{each}`" for each in known)
    help_ = f"did you mean `{near}`?" if near else f"known are {listed}" if known else None
    return Diagnostic(
        BAD_OPTION_VALUE,
        f"no machine called `{name}` is remembered",
        label,
        help=help_ or f"remember one: `--memory cuda:0=24GiB,cpu=64GiB --save {name}`",
    )

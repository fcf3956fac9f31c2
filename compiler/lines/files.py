"""Override files: read as constraints, not as whole plans, and all of them before anything is reported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from ...backends import BACKENDS, read_plan
from ...backends.plan_files import read_bytes
from ...backends.plan_text import decode_text
from ...grammar import parse
from ...ir import Diagnostics, Plan, PlanError

Override: TypeAlias = Plan | str | Path


def read_text(path: Path) -> str:
    """Return the text of a file; raises `PlanError` when there is none."""
    return decode_text(read_bytes(path), str(path))


def read_overrides(overrides: Override | Sequence[Override] | None) -> tuple[Plan, ...]:
    """Read override plans in order; a text with a line break is a plan, any other text is a path.

    Raises:
        PlanError: with everything that is wrong in any of them.

    """
    if overrides is None:
        return ()
    if isinstance(overrides, Plan | str | Path):
        overrides = (overrides,)
    diagnostics = Diagnostics()
    plans: list[Plan] = []
    for override in overrides:
        try:
            plans.append(_read(override))
        except PlanError as error:
            diagnostics.extend(error.diagnostics)
    diagnostics.raise_errors()
    return tuple(plans)


def _read(override: Override) -> Plan:
    if isinstance(override, Plan):
        return override
    if isinstance(override, str) and "\n" in override:
        return parse(override, name="<overrides>")
    # A text form is parsed, not read as a plan: the laws of a whole plan do not hold for a few lines.
    others = {backend.suffix for backend in BACKENDS.values() if backend.name != "plan"}
    if Path(override).suffix in others:
        return read_plan(override)
    return parse(read_text(Path(override)), name=str(override))

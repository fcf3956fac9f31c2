"""Override files: read as constraints, not as whole plans, and all of them before anything is reported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, TypeAlias

from ...backends import BACKENDS, read_plan
from ...backends.plan_files import read_bytes
from ...backends.plan_text import decode_text
from ...grammar import parse
from ...grammar.statements import FORMS
from ...ir import Diagnostic, Diagnostics, Plan, PlanError
from ...ir.rules.usage import BAD_OPTION_VALUE

Override: TypeAlias = Plan | str | Path


def read_text(path: Path) -> str:
    """Return the text of a file; raises `PlanError` when there is none."""
    return decode_text(read_bytes(path), str(path))


def read_overrides(overrides: Override | Iterable[Override] | None) -> tuple[Plan, ...]:
    """Read override plans in order; a text with a line break or of one statement is a plan, any other a path.

    Raises:
        PlanError: with everything that is wrong in any of them.

    """
    if overrides is None:
        return ()
    diagnostics = Diagnostics()
    plans: list[Plan] = []
    for override in _listed(overrides):
        try:
            plans.append(_read(override))
        except PlanError as error:
            diagnostics.extend(error.diagnostics)
    diagnostics.raise_errors()
    return tuple(plans)


def _listed(overrides: object) -> list[object]:
    if isinstance(overrides, Plan | str | Path | bytes | Mapping) or not isinstance(overrides, Iterable):
        return [overrides]
    try:
        return [*overrides]
    except Exception as error:  # a generator of somebody else may raise anything
        message = f"`overrides` cannot be read: {type(error).__name__}"
        raise PlanError([Diagnostic(BAD_OPTION_VALUE, message, help=_HELP)]) from error


def _read(override: object) -> Plan:
    if isinstance(override, Plan):
        return override
    if isinstance(override, str) and ("\n" in override or _is_statement(override)):
        return parse(override, name="<overrides>")
    if isinstance(override, str | Path):
        return read_lines(override)
    message = f"a `{type(override).__name__}` is no override"
    raise PlanError([Diagnostic(BAD_OPTION_VALUE, message, help=_HELP)])


def _is_statement(text: str) -> bool:
    keyword, blank, _ = text.partition(" ")
    return bool(blank) and keyword in FORMS and not Path(text).exists()


_HELP: Final = "give a path, a plan, or lines of one: `place model.layers.0 on cpu`"


def read_lines(path: str | Path) -> Plan:
    """Return what a file says, be it a whole plan or a few lines of one.

    A text is parsed, not read as a plan: the laws of a whole plan do not hold for a few lines.
    """
    others = {backend.suffix for backend in BACKENDS.values() if backend.name != "plan"}
    try:
        if Path(path).suffix.lower() in others:
            return read_plan(path)
        return parse(read_text(Path(path)), name=str(path))
    except ValueError as error:  # a path no file can have
        message = f"`{str(path)[:60]!r}` is no path: {error}"
        raise PlanError([Diagnostic(BAD_OPTION_VALUE, message, help=_HELP)]) from None

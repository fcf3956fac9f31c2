"""Values that people hand over from Python, refused by name before anything is done with them."""

from __future__ import annotations

from typing import Final

from .diagnostic import Diagnostic, PlanError
from .rules.usage import BAD_OPTION_VALUE

A_PLAN: Final = "give a plan: `read_plan` returns one, and so does `compile_model`"


def require(name: str, value: object, kinds: type | tuple[type, ...], wanted: str) -> None:
    """Raise `PlanError` for an argument that is not of one of these kinds; ``wanted`` says what to give."""
    if not isinstance(value, kinds):
        raise refused(name, f"of the type `{type(value).__name__}`", wanted)


def refused(name: str, what: str, wanted: str) -> PlanError:
    """Return the error of an argument that cannot be what it is."""
    return PlanError([Diagnostic(BAD_OPTION_VALUE, f"`{name}` cannot be {what}", help=wanted)])

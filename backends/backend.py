"""What a backend is: one form a plan can be written in, and often be read from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..ir import Diagnostic, Plan


def loses_nothing(_plan: Plan) -> tuple[Diagnostic, ...]:
    """Say that a form holds every plan whole."""
    return ()


@dataclass(frozen=True, slots=True)
class Backend:
    """One form of a plan. ``emit`` and ``read`` are pure: bytes in, bytes out, no files."""

    name: str
    """What ``--to`` calls it, ``device-map``."""
    suffix: str
    """The file name ending that chooses it, ``.json``."""
    expresses: str
    """What of a plan the form can hold, in a few words for people."""
    emit: Callable[[Plan], bytes]
    read: Callable[[bytes, str], Plan] | None = None
    """Bytes and the name to show for them -> plan; raises `PlanError`. None: the form is write-only."""
    losses: Callable[[Plan], tuple[Diagnostic, ...]] = loses_nothing
    """What of this plan would be lost by writing it in this form."""

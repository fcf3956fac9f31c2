"""The ``.plan`` text as a backend: grammar does the work, and is loaded only when there is some."""

from __future__ import annotations

from ..ir import Diagnostic, Plan, PlanError
from ..ir.rules.planfile import NOT_TEXT


def emit(plan: Plan) -> bytes:
    """Write a plan as text."""
    from ..grammar import print_plan

    return print_plan(plan).encode("utf-8", "surrogatepass")


def read(data: bytes, name: str) -> Plan:
    """Read a plan from text; raises `PlanError` with everything found."""
    from ..grammar import parse

    return parse(decode_text(data, name), name)


def decode_text(data: bytes, name: str) -> str:
    """Return the text of a file's bytes, line ends made plain; raises `PlanError` when it is not UTF-8."""
    try:
        return data.decode("utf-8-sig", "surrogatepass").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        message = f"`{name}` is not UTF-8 text: byte {error.start} cannot be read"
        raise PlanError([Diagnostic(NOT_TEXT, message, help="save it as UTF-8")]) from None

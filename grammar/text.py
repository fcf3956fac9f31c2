"""The four functions of the language: read, read and collect, print, format."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ..ir import Diagnostic, Diagnostics, Plan, Source
from ..ir.values import A_PLAN, require
from .layout import lay_out
from .parser import parse_document
from .resolve import resolve
from .syntax import Document
from .unresolve import unresolve

_A_TEXT: Final = "give the text of a `.plan` file; `read_plan` takes its path"


def parse(text: str, name: str = "<text>") -> Plan:
    """Read a text; raises `PlanError` with everything that is wrong. Warnings are in the plan."""
    require("text", text, str, _A_TEXT)
    diagnostics = Diagnostics()
    plan = _read(Source(name, text), diagnostics)
    diagnostics.raise_errors()
    return replace(plan, diagnostics=tuple(diagnostics))


def parse_collecting(text: str, name: str = "<text>") -> tuple[Plan | None, tuple[Diagnostic, ...]]:
    """Read a text and return all findings; no plan when one of them is an error."""
    diagnostics = Diagnostics()
    plan = _read(Source(name, text), diagnostics)
    found = tuple(diagnostics)
    return (None if diagnostics.errors else replace(plan, diagnostics=found)), found


def _read(source: Source, diagnostics: Diagnostics) -> Plan:
    return resolve(parse_document(source, diagnostics), diagnostics)


def print_plan(plan: Plan, *, with_modules: bool = False) -> str:
    """Write a plan so that `parse` reads the same plan; ``with_modules`` adds its module table."""
    require("plan", plan, Plan, A_PLAN)
    return lay_out(unresolve(plan, with_modules=with_modules))


def format_text(text: str, name: str = "<text>") -> str:
    """Lay a text out as the printer does; statements, their order and comments stay.

    Raises `PlanError` for a text that cannot be read.
    """
    require("text", text, str, _A_TEXT)
    document = _document(text, name)
    formatted = lay_out(document)
    if _document(formatted, name) != document:
        raise AssertionError("formatting would change the meaning of the text")
    return formatted


def _document(text: str, name: str) -> Document:
    diagnostics = Diagnostics()
    document = parse_document(Source(name, text), diagnostics)
    diagnostics.raise_errors()
    return document

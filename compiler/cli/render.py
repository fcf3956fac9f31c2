"""Diagnostics as terminal text, as one line each, and as JSON.

Order, folding and layout are decided here and nowhere else: file, offset, severity, code; more than
three warnings of one code become one with a count. A diagnostic stays a value until it gets here.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from typing import Any, Final

from ...ir import Diagnostic, Label, Severity, Span
from ...ir.changes import TextChange
from ...ir.visible import visible
from .snippet import snippet
from .terminal import Line, Piece, paint, wrap

FORMAT_VERSION: Final = 1
_FOLD_ABOVE: Final = 3
_STYLES: Final = {Severity.ERROR: "bold red", Severity.WARNING: "bold yellow"}
_GUTTER: Final = "blue"
_CAPITAL: Final = re.compile(r"(?<!^)[A-Z]")


def render(
    diagnostics: Iterable[Diagnostic],
    *,
    color: bool = False,
    width: int | None = None,
    unfold: bool = False,
) -> str:
    """Return diagnostics as text for people, a blank line between two; empty when there are none."""
    found = by_place(diagnostics)
    shown = found if unfold else fold(found)
    blocks = [paint(_block(diagnostic, width), color=color) for diagnostic in shown]
    if len(found) > 1:
        blocks.append(paint([[("bold", summary(found))]], color=color))
    return "\n".join(blocks)


def render_line(diagnostic: Diagnostic) -> str:
    """Return a diagnostic on one line, as editors and `grep` like it."""
    head = f"{diagnostic.severity}[{diagnostic.code}]: {visible(diagnostic.message)}"
    if diagnostic.at is None:
        return head
    line, column = _start(diagnostic.at)
    return f"{visible(diagnostic.at.span.source.name)}:{line}:{column}: {head}"


def render_json(diagnostics: Iterable[Diagnostic]) -> str:
    """Return diagnostics as a JSON document with a format version."""
    return as_json({"diagnostics": [as_data(diagnostic) for diagnostic in by_place(diagnostics)]})


def as_json(content: dict[str, Any]) -> str:
    """Return a document for machines: the content with the version of this format in front."""
    return json.dumps({"format_version": FORMAT_VERSION, **content}, indent=2) + "\n"


def as_data(diagnostic: Diagnostic) -> dict[str, Any]:
    """Return a diagnostic as what JSON can hold."""
    return {
        "code": diagnostic.code,
        "severity": str(diagnostic.severity),
        "message": diagnostic.message,
        "at": None if diagnostic.at is None else _place_data(diagnostic.at),
        "also": [_place_data(label) for label in diagnostic.also],
        "notes": list(diagnostic.notes),
        "help": diagnostic.help,
        "about": diagnostic.about,
        "fixes": [[_change_data(change) for change in fix.changes] for fix in diagnostic.fixes],
    }


def _change_data(change: TextChange) -> dict[str, Any]:
    """Return a change by the name of its kind, ``write-line``; the place is that of the line or the words."""
    told = {each.name: getattr(change, each.name) for each in fields(change)}
    span = told.pop("span", None)
    kind = _CAPITAL.sub(r"-\g<0>", type(change).__name__).lower()
    return {"change": kind, **told, **({} if span is None else _span_data(span))}


def by_place(diagnostics: Iterable[Diagnostic]) -> list[Diagnostic]:
    """Return diagnostics by file, offset, severity and code; what has no place in a file comes first."""
    return sorted(diagnostics, key=_order)


def fold(diagnostics: Iterable[Diagnostic]) -> list[Diagnostic]:
    """Return the diagnostics with more than three warnings of one code folded into the first of them."""
    found = list(diagnostics)
    counts = Counter(d.code for d in found if d.severity is Severity.WARNING)
    kept: list[Diagnostic] = []
    for diagnostic in found:
        more = counts.get(diagnostic.code, 0) - 1
        if more < _FOLD_ABOVE:
            kept.append(diagnostic)
        elif diagnostic.code not in {d.code for d in kept}:
            note = f"{more} more warnings say `{diagnostic.code}`; `--all` shows them"
            kept.append(replace(diagnostic, notes=(*diagnostic.notes, note)))
    return kept


def summary(diagnostics: Iterable[Diagnostic]) -> str:
    """Return how many of each severity there are: ``2 errors, 1 warning``."""
    counts = Counter(diagnostic.severity for diagnostic in diagnostics)
    return ", ".join(
        f"{counts[severity]} {severity}{'s' if counts[severity] > 1 else ''}"
        for severity in Severity
        if counts[severity]
    )


def _order(diagnostic: Diagnostic) -> tuple[str, int, str, str]:
    span = None if diagnostic.at is None else diagnostic.at.span
    name, offset = ("", 0) if span is None else (span.source.name, span.start)
    return name, offset, str(diagnostic.severity), diagnostic.code


def _start(label: Label) -> tuple[int, int]:
    return label.span.source.position(label.span.start)


def _place_data(label: Label) -> dict[str, Any]:
    return {**_span_data(label.span), "text": label.text}


def _span_data(span: Span) -> dict[str, Any]:
    line, column = span.source.position(span.start)
    end_line, end_column = span.source.position(span.end)
    return {
        "file": span.source.name,
        "line": line,
        "column": column,
        "end_line": end_line,
        "end_column": end_column,
    }


def _block(diagnostic: Diagnostic, width: int | None) -> Iterator[Line]:
    style = _STYLES[diagnostic.severity]
    head = f"{diagnostic.severity}[{diagnostic.code}]"
    yield from _headline(head, style, visible(diagnostic.message), width)
    gutter = 1
    if diagnostic.at is not None:
        labels = (diagnostic.at, *diagnostic.also)
        gutter = len(str(max(_start(label)[0] for label in labels)))
        yield from snippet(labels, style, gutter, width)
    for word, text in _remarks(diagnostic):
        yield from _remark(word, visible(text, keep="\n"), gutter, width)


def _headline(head: str, style: str, message: str, width: int | None) -> Iterator[Line]:
    first, *rest = wrap(f"{head}: {message}", width, 0)
    yield [(style, head), ("bold", first.removeprefix(head))]
    yield from ([("bold", line)] for line in rest)


def _remarks(diagnostic: Diagnostic) -> Iterator[Piece]:
    yield from (("note", note) for note in diagnostic.notes)
    if diagnostic.help:
        yield "help", diagnostic.help


def _remark(word: str, text: str, gutter: int, width: int | None) -> Iterator[Line]:
    lead = f"{' ' * gutter} = "
    indent = len(f"{lead}{word}: ")
    first, *rest = wrap(text, width, indent)
    yield [(_GUTTER, lead), ("bold", f"{word}: "), ("", first)]
    yield from ([("", " " * indent + line)] for line in rest)

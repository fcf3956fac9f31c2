"""The fixes of a finding as edits of the text it was found in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, assert_never

from ...grammar.statements import Kind
from ...ir import Diagnostic, Span
from ...ir.changes import (
    AddLine,
    Exchange,
    Fix,
    RemoveLine,
    RenamePrefix,
    Rewrite,
    TextChange,
    WriteLine,
)
from .mentions import Mention, expanded, line_around, mentions
from .shapes import Action, Edit

_COMMENT: Final = re.compile(r'("(?:[^"\\]|\\.)*")|#.*')
_DEVICE: Final = re.compile(r"^[ \t]*device\b.*(?:\n|\Z)", re.MULTILINE)


def fixes(text: str, finding: Diagnostic) -> tuple[Action, ...]:
    """Return the changes to a text that remove a finding; none when that needs a person."""
    return tuple(action for fix in finding.fixes if (action := _action(text, fix)) is not None)


def _action(text: str, fix: Fix) -> Action | None:
    """Return a fix as edits; None where one of its changes belongs to another text or would say too much."""
    edits: list[Edit] = []
    for change in fix.changes:
        made = [] if _elsewhere(text, change) else [*_edits(text, change)]
        if not made:
            return None
        edits += made
    return Action(_title(text, fix.changes[0]), tuple(edits))


def _elsewhere(text: str, change: TextChange) -> bool:
    return not isinstance(change, AddLine | RenamePrefix) and change.span.source.text != text


def _title(text: str, change: TextChange) -> str:
    match change:
        case Rewrite(_, "") | RemoveLine():
            return f"Remove `{_shown(text, change.span, whole=isinstance(change, RemoveLine))}`"
        case Rewrite(_, new) | Exchange(_, _, new):
            return f"Change to `{new}`"
        case WriteLine(_, new):
            return f"Write `{new}`"
        case AddLine(new):
            return f"Add `{new}`"
        case RenamePrefix():
            return "Exchange the prefix in every path"
        case _:
            assert_never(change)


def _shown(text: str, span: Span, *, whole: bool) -> str:
    start, end = line_around(text, span.start) if whole else (span.start, span.end)
    return text[start:end].strip()


def _edits(text: str, change: TextChange) -> Iterator[Edit]:
    match change:
        case Rewrite(span, new):
            yield Edit(span.start, span.end, new)
        case Exchange(span, name, new):
            yield from _exchanged(text, span, name, new)
        case WriteLine(span, new):
            yield from _written(text, span, new)
        case RemoveLine(span):
            start, end = line_around(text, span.start)
            yield Edit(start, min(end + 1, len(text)), "")
        case AddLine(new):
            yield _added(text, new)
        case RenamePrefix(old, new):
            yield from _renamed(text, old, new)
        case _:
            assert_never(change)


def _exchanged(text: str, span: Span, name: str, new: str) -> Iterator[Edit]:
    """Yield the edit of the first word of a line that names something."""
    start, end = line_around(text, span.start)
    found = next((each for each in mentions(text[start:end]) if _names(each, name)), None)
    if found is not None:
        yield Edit(start + found.start, start + found.end, new)


def _names(mention: Mention, name: str) -> bool:
    several = mention.kind is Kind.PATH and not mention.literal
    return name in expanded(mention.name) if several else name == mention.name


def _written(text: str, span: Span, new: str) -> Iterator[Edit]:
    """Yield the edit of a statement, blanks and comment left out; none for a line that says more than it."""
    start, end = line_around(text, span.start)
    row = text[start:end]
    if any(_is_several(each) for each in mentions(row)):
        return
    statement = _COMMENT.sub(lambda match: match[1] or "", row).rstrip()
    yield Edit(start + len(row) - len(row.lstrip()), start + len(statement), new)


def _is_several(mention: Mention) -> bool:
    pattern = mention.kind is Kind.PATH and not mention.literal
    return pattern and ("*" in mention.name or len(expanded(mention.name)) > 1)


def _added(text: str, line: str) -> Edit:
    at = len(text)
    if line.startswith("device "):
        devices = [match.end() for match in _DEVICE.finditer(text)]
        at = devices[-1] if devices else 0
    broken = at > 0 and text[at - 1] != "\n"
    return Edit(at, at, f"\n{line}\n" if broken else f"{line}\n")


def _renamed(text: str, old: str, new: str) -> Iterator[Edit]:
    for each in mentions(text):
        if each.kind is Kind.PATH and each.name.startswith(old):
            start = each.start + text[each.start : each.end].startswith('"')
            yield Edit(start, start + len(old), new)

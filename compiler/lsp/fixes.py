"""Changes that a finding's help describes precisely enough to be made by the editor."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from ...grammar import parse_collecting
from ...grammar.statements import FORMS, Kind
from ...ir import Diagnostic, Label
from ...ir.rules.language import RENAMED_PREFIX, UNKNOWN_PATH
from .mentions import line_around, mentions
from .shapes import Edit, Fix

_MEANT: Final = re.compile(r"did you mean `([^`]+)`\?")
_WRITE: Final = re.compile(r"write `([^`]+)`(?:$|,| in place of these lines$)")
_ADD: Final = re.compile(r"add `([^`]+)`(?:$|,)")
_PREFIX: Final = re.compile(r"write `([^`]+)` for `([^`]+)`$")
_COMMENT: Final = re.compile(r'("(?:[^"\\]|\\.)*")|#.*')
_QUOTED: Final = re.compile(r"`([^`]+)`")


def fixes(text: str, finding: Diagnostic) -> tuple[Fix, ...]:
    """Return the changes to a text that its finding's help offers, none when help needs a person."""
    if finding.help is None:
        return ()
    if finding.fix is not None:
        at, new = finding.fix.span, finding.fix.text
        title = "Write" if any(char.isspace() for char in new) else "Change to"
        return (Fix(f"{title} `{new}`", (Edit(at.start, at.end, new),)),)
    if finding.rule is RENAMED_PREFIX:
        return tuple(_renamed_prefix(text, finding.help))
    return (*_replaced(text, finding, finding.help), *_moved(text, finding, finding.help))


def _replaced(text: str, finding: Diagnostic, hint: str) -> Iterator[Fix]:
    """Yield the fix that writes something in the place of something else."""
    if finding.at is None:
        return
    start, end = finding.at.span.start, finding.at.span.end
    meant = _MEANT.search(hint)
    if meant is not None:
        wrong = _wrong_word(text[start:end], finding.message) or (
            _only_path(text[start:end]) if finding.rule is UNKNOWN_PATH else None
        )
        if wrong is not None:
            at = start + wrong[0]
            yield Fix(f"Change to `{meant[1]}`", (Edit(at, start + wrong[1], meant[1]),))
        return
    write = _WRITE.search(hint)
    if write is None or not _is_text(write[1]):
        return
    if write[1].split()[0] in FORMS:
        instead = [label for label in finding.also if label.text == finding.at.text]
        others = tuple(_without_line(text, label) for label in instead)
        edit = Edit(*_statement_around(text, start), write[1])
        yield Fix(f"Write `{write[1]}`", (edit, *others))
    elif not any(char.isspace() for char in text[start:end]):
        yield Fix(f"Write `{write[1]}`", (Edit(start, end, write[1]),))


def _wrong_word(line: str, message: str) -> tuple[int, int] | None:
    """Find the first thing a message quotes as a whole word of a line."""
    for quoted in _QUOTED.findall(message):
        found = re.search(rf"(?<![^\s=]){re.escape(quoted)}(?![^\s=:])", line)
        if found is not None:
            return found.span()
    return None


def _only_path(line: str) -> tuple[int, int] | None:
    """Return the place of a line's path when it has one only: a message may name a part of its range."""
    paths = [(each.start, each.end) for each in mentions(line) if each.kind is Kind.PATH]
    return paths[0] if len(paths) == 1 else None


def _is_text(words: str) -> bool:
    """Say whether a hint is a text to be taken as it is, not a form with names to be filled in."""
    return not any(re.fullmatch(r'"?[A-Z]+"?', word) for word in words.split())


def _statement_around(text: str, offset: int) -> tuple[int, int]:
    """Return where the statement of a line starts and ends, blanks and comment left out."""
    start, end = line_around(text, offset)
    row = _COMMENT.sub(lambda match: match[1] or "", text[start:end]).rstrip()
    return start + len(row) - len(row.lstrip()), start + len(row)


def _moved(text: str, finding: Diagnostic, hint: str) -> Iterator[Fix]:
    """Yield the fixes that add a line, or take one away."""
    add = _ADD.search(hint)
    if add is not None and parse_collecting(add[1])[0] is not None:
        yield Fix(f"Add `{add[1]}`", (_added(text, add[1]),))
    labels = [label for label in (finding.at, *finding.also) if label is not None]
    if hint.startswith(("remove the line", "correct or remove")) and finding.at is not None:
        yield Fix("Remove the line", (_without_line(text, finding.at),))
    elif len(labels) > 1 and ("one of the two lines" in hint or "keep one" in hint):
        yield from (
            Fix(f"Remove `{_line_of(text, label)}`", (_without_line(text, label),))
            for label in labels
            if label.span.source.text == text
        )


def _added(text: str, line: str) -> Edit:
    """Put a device line behind the other devices, any other line at the end."""
    at = len(text)
    if line.startswith("device "):
        devices = [match.end() for match in re.finditer(r"^[ \t]*device\b.*(?:\n|\Z)", text, re.MULTILINE)]
        at = devices[-1] if devices else 0
    broken = at > 0 and text[at - 1] != "\n"
    return Edit(at, at, f"\n{line}\n" if broken else f"{line}\n")


def _line_of(text: str, label: Label) -> str:
    start, end = line_around(text, label.span.start)
    return text[start:end].strip()


def _without_line(text: str, label: Label) -> Edit:
    start, end = line_around(text, label.span.start)
    return Edit(start, min(end + 1, len(text)), "")


def _renamed_prefix(text: str, hint: str) -> Iterator[Fix]:
    """Yield the fix that exchanges a prefix of every path that has it."""
    exchange = _PREFIX.search(hint)
    missing = re.search(r"write `([^`]+)` before", hint)
    surplus = re.search(r"remove `([^`]+)` from", hint)
    new = exchange[1] if exchange else missing[1] if missing else ""
    old = exchange[2] if exchange else surplus[1] if surplus else ""
    paths = [each for each in mentions(text) if each.kind is Kind.PATH and each.name.startswith(old)]
    if not paths or (not old and not new):
        return
    edits = []
    for each in paths:
        start = each.start + text[each.start : each.end].startswith('"')
        edits.append(Edit(start, start + len(old), new))
    yield Fix("Exchange the prefix in every path", tuple(edits))

"""What the parser stumbled over, said in the words of the language: never its terminals or states."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from ..ir import Diagnostic, Label, Source, Span, parse_size
from ..ir.changes import line_written, rewritten
from ..ir.near import near_name
from ..ir.rules.language import UNEXPECTED_WORD, UNKNOWN_KEYWORD
from ..ir.wording import joined_words, listed
from . import meant
from .builder import MalformedWordError
from .statements import FORMS, INNER_WORDS

_KINDS: Final = {
    "PATH": "a path",
    "NAME": "a name",
    "NUMBER": "a size such as `10GiB`",
    "DEVICE_NAME": "a device such as `cuda:0`",
    "DTYPE": "a dtype such as `bfloat16`",
    "TENSOR_TYPE": "a tensor type such as `float32[4,4]`",
    "COLON": "`:`",
    "EQUALS": "`=`",
    "$END": "the end of the line",
}
_SILENT: Final = frozenset({"COMMENT", "STRING"})
_WORD: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[=:](?=\s|$)|[^\s#"]+|\S')
_OPEN: Final = re.compile(r'"(?:[^"\\]|\\.)*\\?')
_LONGEST: Final = 40


@dataclass(frozen=True, slots=True)
class Mistake:
    """Where a line stops making sense, and the terminals that could stand there."""

    column: int
    expected: frozenset[str]


def describe(
    mistake: Mistake, source: Source, start: int, row: str, reads: Callable[[str], bool]
) -> Diagnostic:
    """Turn the first mistake of a line into a diagnostic; ``reads`` says whether a line would be read."""
    indent = len(row) - len(row.lstrip())
    first = re.compile(r"[^\s=:#\"]*").match(row, indent)
    keyword = first[0] if first else ""
    if keyword not in FORMS:
        span = Span(source, start + indent, start + indent + max(1, len(keyword)))
        return _unknown_keyword(keyword, span, row, reads)
    found = _WORD.match(row, mistake.column)
    end = found.end() if found else mistake.column
    at = Span(source, start + mistake.column, start + end)
    repaired = next(filter(reads, (*meant.repaired(row), *_repairs(mistake, row, found))), None)
    fixes = line_written(at, repaired)
    rewrite = f"write `{repaired}`" if repaired else f"write it as `{FORMS[keyword]}`"
    if found is not None and _OPEN.fullmatch(found[0]):
        hint = 'close it with a second `"`, or write the name without quotes'
        message = "a quote is opened and never closed"
        return Diagnostic(UNEXPECTED_WORD, message, Label(at, "opened here"), help=hint)
    if mistake.expected == {keyword.upper()}:
        message = f"`{_shown(found)}` runs into the word before it"
        label = Label(at, "a blank is missing")
        return Diagnostic(UNEXPECTED_WORD, message, label, help=rewrite, fixes=fixes)
    wanted = _wanted(mistake.expected)
    before = row[: mistake.column].split()
    if found is not None and before and parse_size(before[-1]) is not None and parse_size("1" + found[0]):
        message = f"a size is one word, `{before[-1]}{found[0]}`"
        joined = f"{row[: mistake.column].strip()}{row[mistake.column :].partition('#')[0].rstrip()}"
        fixes = line_written(at, joined if reads(joined) else None)
        hint = f"write `{joined}`" if fixes else "remove the blank"
        return Diagnostic(
            UNEXPECTED_WORD, message, Label(at, "remove the blank before it"), help=hint, fixes=fixes
        )
    near = near_name(found[0], (name.lower() for name in mistake.expected)) if found else None
    near = near if near in FORMS or near in INNER_WORDS else None
    return Diagnostic(
        UNEXPECTED_WORD,
        f"expected {wanted} {_after(row, mistake.column)}, found {_found(found)}",
        Label(at, f"expected {wanted}"),
        help=f"did you mean `{near}`?" if near else rewrite,
        fixes=rewritten(at, near) or fixes,
    )


def _repairs(mistake: Mistake, row: str, found: re.Match[str] | None) -> Iterator[str]:
    """Yield lines the writer may have meant: a keyword more, another keyword, a dot, quotes."""
    if found is None:
        return
    comment = row.find("#", found.end())
    row = (row if comment < 0 else row[:comment]).strip()
    indent = found.start() - len(found.string[: found.start()].lstrip())
    before, after = row[: found.start() - indent], row[found.end() - indent :]
    if found[0].startswith(":"):
        yield f"{before.rstrip()}.{found[0][1:]}{after}"
    for keyword in sorted(mistake.expected & {"ON", "RUN", "WITH", "FOR", "MEMORY", "OF", "RATE", "ROWS"}):
        yield f"{before}{keyword.lower()}{after}"
        yield f"{before}{keyword.lower()} {found[0]}{after}"
    if before.count(" for ") == 1:
        statement, _, purpose = f"{before}{found[0]}{after}".partition(" for ")
        yield f'{statement} for "{purpose}"'


def _unknown_keyword(word: str, span: Span, row: str, reads: Callable[[str], bool]) -> Diagnostic:
    near = near_name(word.lower(), FORMS)
    line = meant.comment(row) or next(filter(reads, meant.statements(row)), None)
    hint = f"write `{line}`" if line else f"write it as `{FORMS['place']}`, a comment as `# {word or '...'}`"
    return Diagnostic(
        UNKNOWN_KEYWORD,
        f"no statement starts with `{word[:_LONGEST]}`" if word else "a line starts with a keyword",
        Label(span, "not a keyword"),
        notes=(f"statements: {listed([*FORMS])}",),
        help=f"did you mean `{near}`?" if near else hint,
        about=word[:_LONGEST],
        fixes=rewritten(span, near) or line_written(span, line),
    )


def _wanted(expected: frozenset[str]) -> str:
    kinds = [text for name, text in _KINDS.items() if name in expected]
    words = sorted(f"`{name.lower()}`" for name in expected - _KINDS.keys() - _SILENT)
    return joined_words(words + kinds, "or") or "the end of the line"


def _after(row: str, column: int) -> str:
    words = [match[0] for match in _WORD.finditer(row[:column])]
    return f"after `{words[-1][:_LONGEST]}`" if words else "first"


def _shown(found: re.Match[str] | None) -> str:
    return found[0][:_LONGEST] if found else ""


def _found(found: re.Match[str] | None) -> str:
    return f"`{_shown(found)}`" if found else "the end of the line"


def malformed_word(wrong: MalformedWordError, source: Source, start: int) -> Diagnostic:
    """Say that an escape in a quoted word means nothing."""
    span = Span(source, start + wrong.token.start, start + wrong.token.end)
    return Diagnostic(
        UNEXPECTED_WORD,
        "a quoted word holds a `\\` that means nothing",
        Label(span, "in here"),
        help='write `\\\\` for a backslash; `\\"`, `\\n`, `\\t`, `\\r` and `\\u{2603}` are known',
    )


def long_line(span: Span, length: int) -> Diagnostic:
    """Say that a line is too long to be one a person or a compile wrote."""
    message = f"a line of {length:,} characters is longer than {span.end - span.start:,}"
    return Diagnostic(UNEXPECTED_WORD, message, Label(span, "not read"), help="write it as several lines")


def many_mistakes(span: Span, count: int) -> Diagnostic:
    """Say that reading stopped."""
    message = f"reading stopped after {count} lines with mistakes"
    return Diagnostic(UNEXPECTED_WORD, message, Label(span, "here"), help="check that this is a .plan text")

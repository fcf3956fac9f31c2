"""Commands about plans that exist: format, diff, and the page of a diagnostic's code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ...ir import RULES, Diagnostic, Diagnostics, Label, PlanError, Source, Span
from ...ir.near import near_name
from ...ir.rules.usage import NOT_FORMATTED, UNKNOWN_CODE
from ...ir.visible import pasted, visible
from .console import Console

_DONE: Final = 0
_FAILED: Final = 1
_CHANGES: Final = 3


def explain_code(code: str, console: Console) -> int:
    """Print the page of a rule."""
    rule = RULES.get(code.strip().removeprefix("error[").removeprefix("warning[").removesuffix("]"))
    if rule is None:
        near = near_name(code, RULES)
        help_ = f"did you mean `{near}`?" if near else "a code is the word in brackets of a message"
        raise PlanError([Diagnostic(UNKNOWN_CODE, f"no diagnostic has the code `{code}`", help=help_)])
    console.lines([[("bold", f"{rule.severity}[{rule.code}]"), ("", f": {rule.summary}")], []])
    console.text(f"{rule.page.rstrip()}\n")
    return _DONE


def list_codes(console: Console) -> int:
    """Print every code with its severity and what it means."""
    found = sorted(RULES.values(), key=lambda rule: rule.code)
    if console.json:
        console.data(
            {"codes": [{"code": r.code, "severity": str(r.severity), "summary": r.summary} for r in found]}
        )
        return _DONE
    width = max(len(rule.code) for rule in found)
    console.lines(
        [("bold", f"{rule.code:<{width}}"), ("", f"  {rule.severity:<7}  {rule.summary}")] for rule in found
    )
    return _DONE


def format_plans(paths: Sequence[str], console: Console, *, check: bool) -> int:
    """Rewrite ``.plan`` files in the canonical layout; with ``check`` only say which would change."""
    diagnostics = Diagnostics()
    changed = 0
    for path in paths:
        try:
            found = _format_one(Path(path), check=check)
        except PlanError as error:
            diagnostics.extend(error.diagnostics)
            continue
        changed += found is not None
        if found is not None and check:
            diagnostics.add(found)
        elif found is not None:
            console.note(f"formatted {visible(path)}\n")
    if diagnostics.errors:
        console.failure(diagnostics)
        return _FAILED
    if console.json:
        console.failure(diagnostics)
    else:
        console.warnings(diagnostics)
    return _CHANGES if check and changed else _DONE


def _format_one(path: Path, *, check: bool) -> Diagnostic | None:
    """Format one file and return what was to change, or None."""
    from ...backends.plan_files import write_bytes
    from ...grammar import format_text
    from ..lines.files import read_text

    text = read_text(path)
    formatted = format_text(text, name=str(path))
    if formatted == text:
        return None
    if not check:
        write_bytes(formatted.encode("utf-8", "surrogatepass"), path)
    offset = next(
        (i for i, (old, new) in enumerate(zip(text, formatted, strict=False)) if old != new),
        min(len(text), len(formatted)),
    )
    place = Span(Source(str(path), text), offset, offset + 1)
    return Diagnostic(
        NOT_FORMATTED,
        f"`{path}` is not in the canonical layout",
        Label(place, "the first difference"),
        help=f"run `compile-plan --format-plan {pasted(path)}`",
    )


def diff_plan_files(
    paths: tuple[str, str], console: Console, *, check: bool, output: str | None = None
) -> int:
    """Print what moved between two plans, whatever their forms; to a page where one is named."""
    from ...backends import read_plan
    from ..answers.diff import diff_plans, diff_text

    before, after = (read_plan(path) for path in paths)
    found = diff_plans(before, after)
    if output is not None:
        from ...backends.html_diff import emit_diff
        from ...backends.plan_files import write_bytes

        write_bytes(emit_diff(before, after, paths, diff_text(found).splitlines()), Path(output))
        console.note(f"wrote {visible(output)}\n")
        return _CHANGES if check and found else _DONE
    if console.json:
        console.data({"differs": bool(found), "diff": diff_text(found).splitlines()})
    else:
        console.text(visible(diff_text(found), keep="\n"))
    return _CHANGES if check and found else _DONE

"""``--passes`` and ``--print-after``: names of passes become passes, with their options in braces."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from dataclasses import Field, dataclass, fields, replace
from typing import Any, Final, cast

from ...ir import Diagnostic, Diagnostics, Label, Plan, PlanError, Source, Span, parse_size
from ...ir.near import near_name
from ...ir.rules.usage import BAD_PIPELINE, UNKNOWN_PASS
from ..passes import PASSES
from ..passes.apply_overrides import ApplyOverrides
from ..passes.pipeline import Pass, PipelineError, run_passes
from .console import Console

_ITEM: Final = re.compile(r"\s*(?P<name>[^{},]*?)\s*(?:\{(?P<options>[^{}]*)\})?\s*(?:,|$)")
_WORDS: Final = {"true": True, "false": False}


def read_passes(text: str, diagnostics: Diagnostics) -> tuple[Pass, ...]:
    """Read ``merge-ties,assign-greedy{option=value}``; what is wrong with it is in ``diagnostics``."""
    source = Source("--passes", text)
    passes: list[Pass] = []
    offset = 0
    while offset < len(text):
        match = _ITEM.match(text, offset)
        if match is None:
            label = Label(Span(source, offset, len(text)))
            help_ = "write `merge-ties,assign-greedy{option=value}`"
            diagnostics.add(Diagnostic(UNKNOWN_PASS, "this is no list of passes", label, help=help_))
            break
        offset = max(match.end(), offset + 1)
        made = _make(match["name"], match["options"], Span(source, *match.span("name")), diagnostics)
        passes += [] if made is None else [made]
    return tuple(passes)


def check_pass_names(names: Iterable[str], diagnostics: Diagnostics) -> None:
    """Report every name that is neither a pass nor ``all``."""
    for name in sorted(names):
        if name not in PASSES and name != "all":
            span = Span(Source("--print-after", name), 0, len(name))
            diagnostics.add(_no_such_pass(name, span, ("all", *PASSES)))


def _no_such_pass(name: str, span: Span, known: Iterable[str]) -> Diagnostic:
    known = tuple(known)
    near = near_name(name.replace("_", "-"), known)
    return Diagnostic(
        UNKNOWN_PASS,
        f"there is no pass `{name}`",
        Label(span),
        notes=("there are " + ", ".join(f"`{each}`" for each in known),),
        help=f"did you mean `{near}`?" if near else None,
    )


def _make(name: str, options: str | None, span: Span, diagnostics: Diagnostics) -> Pass | None:
    kind = PASSES.get(name)
    if kind is None:
        diagnostics.add(_no_such_pass(name, span, PASSES))
        return None
    simple = {field.name.replace("_", "-"): field for field in fields(cast("Any", kind)) if _is_simple(field)}
    values: dict[str, object] = {}
    for option in filter(None, (part.strip() for part in (options or "").split(","))):
        key, _, text = option.partition("=")
        field = simple.get(key.replace("_", "-"))
        value = None if field is None else _value(str(field.type), text)
        if field is None or value is None:
            listed = ", ".join(f"`{each}`" for each in simple) or "none"
            message = f"pass `{name}` cannot take `{option}`"
            note = f"its options are {listed}"
            diagnostics.add(Diagnostic(UNKNOWN_PASS, message, Label(span), notes=(note,)))
        else:
            values[field.name] = value
    return kind(**values)


def _is_simple(field: Field[object]) -> bool:
    return set(re.split(r"\s*\|\s*", str(field.type))) <= {"bool", "int", "float", "str", "None"}


def _value(kind: str, text: str) -> bool | float | str | None:
    """Read the value of an option; None when the text cannot be one."""
    if "bool" in kind:
        return _WORDS.get(text)
    if "int" in kind and (size := parse_size(text)) is not None:
        return size
    if "float" in kind:
        with contextlib.suppress(ValueError):
            return float(text)
    return text if "str" in kind else None


@dataclass(frozen=True, slots=True)
class Chosen:
    """The passes to run, None for those of the strategy, and after which the plan is printed."""

    passes: tuple[Pass, ...] | None
    names: frozenset[str]
    console: Console

    def run(self, plan: Plan, diagnostics: Diagnostics) -> Plan:
        """Run just these passes; a list that cannot work is the user's to mend."""
        try:
            plan = run_passes(plan, self.passes or (), diagnostics, self.printed)
        except PipelineError as error:
            help_ = "`--explain-code bad-pipeline` says how lists are made"
            raise PlanError([*diagnostics, Diagnostic(BAD_PIPELINE, str(error), help=help_)]) from error
        diagnostics.raise_errors()
        return plan

    def printed(self, step: Pass, plan: Plan) -> None:
        """Print the plan on the standard error if this pass was asked for."""
        from ...grammar import print_plan

        if not self.names.isdisjoint({step.name, "all"}):
            self.console.err.write(f"# after {step.name}\n{print_plan(plan, with_modules=True)}\n")


def read_chosen(
    passes: str | None, names: frozenset[str], overrides: tuple[Plan, ...], console: Console
) -> Chosen:
    """Read ``--passes`` and ``--print-after``; raises `PlanError` with everything wrong in them."""
    diagnostics = Diagnostics()
    check_pass_names(names, diagnostics)
    made = None if passes is None else read_passes(passes, diagnostics)
    if made is not None and overrides:
        if not any(isinstance(step, ApplyOverrides) for step in made):
            message = "the list has no `apply-overrides`, so `--override` would do nothing"
            help_ = "`--passes merge-ties,apply-overrides,expand-splits,…`"
            diagnostics.add(Diagnostic(BAD_PIPELINE, message, help=help_))
        made = tuple(replace(p, overrides=overrides) if isinstance(p, ApplyOverrides) else p for p in made)
    diagnostics.raise_errors()
    return Chosen(made, names, console)

"""``--passes`` and ``--print-after``: names of passes become passes, with their options in braces."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from types import NoneType, UnionType
from typing import ClassVar, Final, Literal, Union, get_args, get_origin, get_type_hints

from ...ir import Diagnostic, Diagnostics, Label, Plan, PlanError, Source, Span, parse_size, verify
from ...ir.near import near_name
from ...ir.rules.laws import TENSOR_WITHOUT_PLACE
from ...ir.rules.usage import BAD_PIPELINE, UNKNOWN_PASS
from ...ir.wording import in_words
from ..driver.options import Options
from ..driver.strategies import passes_for
from ..passes import PASSES
from ..passes.apply_overrides import ApplyOverrides
from ..passes.pipeline import Pass, PipelineError, run_passes
from .console import Console

_ITEM: Final = re.compile(r"\s*(?P<name>[^{},]*?)\s*(?:\{(?P<options>[^{}]*)\})?\s*(?:,|$)")


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
        notes=(f"there are {in_words(known)}",),
        help=f"did you mean `{near}`?" if near else None,
    )


def _make(name: str, options: str | None, span: Span, diagnostics: Diagnostics) -> Pass | None:
    kind = PASSES.get(name)
    if kind is None:
        diagnostics.add(_no_such_pass(name, span, PASSES))
        return None
    kinds = {
        each: _choices(hint)
        for each, hint in get_type_hints(kind).items()
        if get_origin(hint) is not ClassVar
    }
    simple = {each: choices for each, choices in kinds.items() if choices}
    values: dict[str, object] = {}
    for option in filter(None, (part.strip() for part in (options or "").split(","))):
        key, _, text = option.partition("=")
        field = key.strip().replace("-", "_")
        found = _read(text.strip(), simple.get(field, ()))
        if found is None:
            known = in_words((_shown(each, choices) for each, choices in simple.items()), none="none")
            message = f"pass `{name}` cannot take `{option}`"
            note = f"its options are {known}"
            diagnostics.add(Diagnostic(UNKNOWN_PASS, message, Label(span), notes=(note,)))
        else:
            values[field] = found[0]
    return kind(**values)


def _choices(hint: object) -> tuple[object, ...]:
    """Return what a field may hold: types and words, nothing for what cannot be written in a list."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    parts = [_choices(part) for part in get_args(hint)] if get_origin(hint) in {Union, UnionType} else []
    if parts:
        return tuple(choice for part in parts for choice in part) if all(parts) else ()
    return (hint,) if hint in {bool, int, float, str, NoneType} else ()


def _read(text: str, choices: tuple[object, ...]) -> tuple[object] | None:
    """Read a value as the first of what it may be, in a tuple because it may be None; None for nonsense."""
    for choice in choices:
        value: object = None
        if choice is bool:
            value = {"true": True, "false": False}.get(text)
        elif choice is int:
            value = parse_size(text)
        elif choice is float and re.fullmatch(r"[0-9]+(\.[0-9]*)?", text):
            value = float(text)
        elif (choice is str and text) or choice == text:
            value = text
        elif choice is NoneType and text == "none":
            return (None,)
        if value is not None:
            return (value,)
    return None


def _shown(name: str, choices: tuple[object, ...]) -> str:
    words = [
        "none" if each is NoneType else each.__name__ if isinstance(each, type) else each for each in choices
    ]
    return f"{name.replace('_', '-')}={'|'.join(map(str, words))}"


@dataclass(frozen=True, slots=True)
class Chosen:
    """The passes to run, None for those of the strategy, and after which the plan is printed."""

    passes: tuple[Pass, ...] | None
    names: frozenset[str]
    console: Console

    def run(self, plan: Plan, diagnostics: Diagnostics) -> Plan:
        """Run just these passes; a plan that is wrong already and a list that cannot work are the user's."""
        broken = [law for law in verify(plan) if law.rule is not TENSOR_WITHOUT_PLACE]
        if broken:
            raise PlanError([*diagnostics, *broken])
        try:
            plan = run_passes(plan, self.passes or (), diagnostics, self.printed)
        except PipelineError as error:
            giving = [f"`{name}`" for name, kind in PASSES.items() if error.missing in kind.gives]
            help_ = f"put {' or '.join(giving)} before it"
            raise PlanError([*diagnostics, Diagnostic(BAD_PIPELINE, str(error), help=help_)]) from error
        diagnostics.raise_errors()
        if plan.tree is not None and plan.tree.tensor_names and not any(unit.store for unit in plan.units):
            help_ = f"`--passes {','.join(step.name for step in passes_for(Options()))}` is what `auto` runs"
            raise PlanError([Diagnostic(BAD_PIPELINE, "these passes place nothing", help=help_)])
        return plan

    def printed(self, step: Pass, plan: Plan) -> None:
        """Print the plan on the standard error if this pass was asked for."""
        from ...grammar import print_plan

        if not self.names.isdisjoint({step.name, "all"}):
            self.console.say(f"# after {step.name}\n{print_plan(plan, with_modules=True)}\n")


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

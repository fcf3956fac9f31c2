"""What a model is used for: options, else `workload` lines; what of it a trace follows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from ...ir import Plan, Workload
from .options import Options

if TYPE_CHECKING:
    from ..tracing import Use

SAYING: Final = ("rows", "prompt", "generate", "workload", "optimizer")
"""The options that say what a model is used for."""
_GENERATE: Final = "generate"


def with_workload(options: Options, overrides: Iterable[Plan] = ()) -> Options:
    """Return the options with the workload they and the lines of overrides ask for, if any does.

    An option wins over a line, a later line over an earlier one; what a compile added is nobody's wish.
    """
    lines = [plan.workload for plan in overrides if plan.workload is not None and not plan.workload.added]
    if not lines and not any(map(options.gives, SAYING)):
        return options
    return replace(options, used=_workload(options, lines[-1] if lines else None))


def _workload(options: Options, line: Workload | None) -> Workload:
    kind = options.workload or (_GENERATE if line is None else line.kind)
    base = line if line is not None and line.kind == kind else Workload(kind)
    rows = options.rows or options.batch or (1 if line is None else line.rows)
    prompt = options.prompt if options.gives("prompt") else options.seq
    if kind == _GENERATE:
        tokens = options.generate if options.gives("generate") else base.tokens
        return Workload(kind, rows, base.prompt if prompt is None else prompt, tokens)
    told = base.tokens if line is base else base.prompt
    return Workload(kind, rows, 0, told if prompt is None else prompt)


def use_of(options: Options, *, made: bool) -> Use:
    """Return what of the workload a trace follows; ``made`` says that its inputs are made in that size."""
    from ..tracing import Use

    work = options.used
    if work is None:
        return Use(total=options.cache_tokens)
    total, written = options.cache_tokens, None
    if total is None and work.kind == _GENERATE:
        total, written = (work.prompt + work.tokens, None) if made else (None, work.tokens)
    use = Use(work.kind, total, written)
    return use if options.optimizer is None else replace(use, optimizer=options.optimizer)


def rows_of(options: Options) -> int:
    """Return how many sequences there are at once."""
    return (options.batch or 1) if options.used is None else options.used.rows


def read_tokens(options: Options) -> int | None:
    """Return how many tokens the forward reads; None where nobody says."""
    if options.used is None or options.seq is not None:
        return options.seq
    return (options.used.prompt if options.used.kind == _GENERATE else options.used.tokens) or None


def cached_tokens(options: Options) -> int | None:
    """Return how many tokens a cache holds at its longest; None where nobody says."""
    if options.cache_tokens is not None or options.used is None or options.used.kind != _GENERATE:
        return options.cache_tokens
    return options.used.prompt + options.used.tokens

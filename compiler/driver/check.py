"""Options from Python are checked here, once; the command checks its own with carets under them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from ...ir import Diagnostic, Diagnostics
from ...ir.near import near_name
from ...ir.rules.usage import BAD_OPTION_VALUE
from .options import OBJECTIVES, OFFLOADS, STRATEGIES, Objective, Offload, Options, Strategy


def checked(options: Options) -> Options:
    """Return the options with every word spelled as it is listed; dashes and underscores are one.

    Raises:
        PlanError: a word is none of those listed, or a number is below what it can be.

    """
    diagnostics = Diagnostics()
    strategy = _word("strategy", options.strategy, STRATEGIES, diagnostics)
    offload = _word("offload", options.offload, OFFLOADS, diagnostics)
    objective = None
    if options.objective is not None:
        objective = _word("objective", options.objective, OBJECTIVES, diagnostics)
    for name, least in (("margin", 0), ("runtime", 0), ("kv_cache", 0)):
        _number(name, getattr(options, name), least, diagnostics)
    for name, least in (("batch", 1), ("seq", 1), ("cache_tokens", 0)):
        _number(name, getattr(options, name), least, diagnostics)
    for name, least in (("prompt", 0), ("generate", 0), ("time_limit", 0)):
        _number(name, getattr(options, name), least, diagnostics)
    diagnostics.raise_errors()
    return replace(
        options,
        strategy=cast("Strategy", strategy),
        offload=cast("Offload", offload),
        objective=cast("Objective | None", objective),
    )


def _word(option: str, given: object, words: Sequence[str], diagnostics: Diagnostics) -> str:
    known = {word.replace("_", "-"): word for word in words}
    text = str(given).replace("_", "-")
    if text not in known:
        near = near_name(text, tuple(known))
        listed = ", ".join(f"`{word}`" for word in words)
        help_ = f"did you mean `{known[near]}`?" if near else f"use one of {listed}"
        diagnostics.add(Diagnostic(BAD_OPTION_VALUE, f"`{option}` cannot be `{given}`", help=help_))
    return known.get(text, words[0])


def _number(option: str, given: object, least: int, diagnostics: Diagnostics) -> None:
    if given is None:
        return
    kinds = (int, float) if option == "time_limit" else (int,)
    if isinstance(given, bool) or not isinstance(given, kinds) or not given >= least:
        help_ = f"give a number from {least} on"
        diagnostics.add(Diagnostic(BAD_OPTION_VALUE, f"`{option}` cannot be `{given!r}`", help=help_))

"""Rules of the command line: what was asked cannot be understood, or we failed."""

from __future__ import annotations

from typing import Final

from ..diagnostic import Rule, Severity

BAD_OPTION_VALUE: Final = Rule("bad-option-value", Severity.ERROR, "an option has a value it cannot have")
BAD_PIPELINE: Final = Rule(
    "bad-pipeline", Severity.ERROR, "the passes of `--passes` cannot run in this order on this plan"
)
BAD_USAGE: Final = Rule(
    "bad-usage", Severity.ERROR, "the command line is incomplete, or asks for two things at once"
)
CANNOT_REPLAN: Final = Rule(
    "cannot-replan", Severity.ERROR, "a plan without its module table cannot be placed anew"
)
CANNOT_TRY: Final = Rule("cannot-try", Severity.ERROR, "the input holds no model that writes text")
CANNOT_VERIFY: Final = Rule("cannot-verify", Severity.ERROR, "the forward cannot be replayed under the plan")
INTERNAL_ERROR: Final = Rule("internal-error", Severity.ERROR, "a bug in compile-plan")
NOT_FORMATTED: Final = Rule(
    "not-formatted", Severity.WARNING, "`--check` found a file that is not in the canonical layout"
)
OPTION_WITHOUT_EFFECT: Final = Rule(
    "option-without-effect",
    Severity.ERROR,
    "an option would change nothing for this input, or beside another option",
)
UNKNOWN_CODE: Final = Rule("unknown-code", Severity.ERROR, "no diagnostic has this code")
UNKNOWN_OPTION: Final = Rule("unknown-option", Severity.ERROR, "the command has no such option")
UNKNOWN_PASS: Final = Rule(
    "unknown-pass", Severity.ERROR, "no pass has this name, or the pass has no such option"
)
UNKNOWN_UNIT: Final = Rule("unknown-unit", Severity.ERROR, "`--explain` names a path that is not in the plan")

ALL: Final = (
    BAD_OPTION_VALUE,
    BAD_PIPELINE,
    BAD_USAGE,
    CANNOT_REPLAN,
    CANNOT_TRY,
    CANNOT_VERIFY,
    INTERNAL_ERROR,
    NOT_FORMATTED,
    OPTION_WITHOUT_EFFECT,
    UNKNOWN_CODE,
    UNKNOWN_OPTION,
    UNKNOWN_PASS,
    UNKNOWN_UNIT,
)

"""Rules of the .plan language and of binding its lines to a model."""

from __future__ import annotations

from typing import Final

from ..diagnostic import Rule, Severity

BROKEN_TABLE: Final = Rule("broken-table", Severity.ERROR, "the module table contradicts itself")
CONTRADICTION: Final = Rule("contradiction", Severity.ERROR, "two lines cannot both hold")
LINE_NEVER_WINS: Final = Rule("line-never-wins", Severity.WARNING, "a `place` line decides nothing")
MALFORMED_NUMBER: Final = Rule("malformed-number", Severity.ERROR, "a size, rate or count cannot be read")
MALFORMED_PATTERN: Final = Rule("malformed-pattern", Severity.ERROR, "a path or pattern cannot be expanded")
PIN_INSIDE_ATOMIC: Final = Rule(
    "pin-inside-atomic", Severity.ERROR, "a line would cut a module that is never split"
)
PINS_OVER_BUDGET: Final = Rule(
    "pins-over-budget", Severity.ERROR, "the lines put more on a device than it has"
)
REPEATED_LINE: Final = Rule("repeated-line", Severity.ERROR, "a line that may stand once stands twice")
RENAMED_PREFIX: Final = Rule("renamed-prefix", Severity.ERROR, "the model's names moved to another prefix")
SPLIT_OF_LEAF: Final = Rule("split-of-leaf", Severity.ERROR, "there is nothing to split")
UNEXPECTED_WORD: Final = Rule(
    "unexpected-word", Severity.ERROR, "a line does not read as its keyword demands"
)
UNKNOWN_CLASS: Final = Rule("unknown-class", Severity.ERROR, "no module of the model has this class")
UNKNOWN_DEVICE: Final = Rule("unknown-device", Severity.ERROR, "this is not the name of a device")
UNKNOWN_KEYWORD: Final = Rule(
    "unknown-keyword", Severity.ERROR, "a line starts with a word that is no statement"
)
UNKNOWN_PATH: Final = Rule("unknown-path", Severity.ERROR, "a path or pattern names nothing in the model")
UNSUPPORTED_VERSION: Final = Rule(
    "unsupported-version", Severity.ERROR, "the text is written in another version of the language"
)

ALL: Final = (
    BROKEN_TABLE,
    CONTRADICTION,
    LINE_NEVER_WINS,
    MALFORMED_NUMBER,
    MALFORMED_PATTERN,
    PIN_INSIDE_ATOMIC,
    PINS_OVER_BUDGET,
    RENAMED_PREFIX,
    REPEATED_LINE,
    SPLIT_OF_LEAF,
    UNEXPECTED_WORD,
    UNKNOWN_CLASS,
    UNKNOWN_DEVICE,
    UNKNOWN_KEYWORD,
    UNKNOWN_PATH,
    UNSUPPORTED_VERSION,
)

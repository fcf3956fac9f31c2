"""Rules of the .plan language and of binding its lines to a model."""

from __future__ import annotations

from typing import Final

from ..diagnostic import Rule, Severity

BROKEN_TABLE: Final = Rule(
    "broken-table",
    Severity.ERROR,
    "the module table contradicts itself",
    """\
A module table names every module and tensor once, and either all tensors have their bytes or none.

    parameter head.weight : float32[4,4] 64B
    parameter head.bias : float32[4]

Give the second line its bytes (`16B`), or leave them away everywhere.""",
)
CONTRADICTION: Final = Rule(
    "contradiction",
    Severity.ERROR,
    "two lines cannot both hold",
    """\
Two decisions exclude each other: a place on a device a `never` line forbids, tied tensors or members
of a `together` line placed apart, a module that is both split and atomic, `never` on every device,
a `tie` the model does not have.

    never lm_head on cuda:0
    place lm_head on cuda:0

Both lines are shown; remove or change one of them.""",
)
LINE_NEVER_WINS: Final = Rule(
    "line-never-wins",
    Severity.WARNING,
    "a `place` line decides nothing",
    """\
The deepest match wins, and the later line among equals. Everything this line names is decided by
other lines, so removing it would change nothing.

    place model.norm on cuda:0
    place model.norm on cuda:1      # this one decides

Remove the line, or move it behind the other.""",
)
MALFORMED_NUMBER: Final = Rule(
    "malformed-number",
    Severity.ERROR,
    "a size, rate or count cannot be read",
    """\
Sizes are bytes: `10GiB` is 10 x 1024^3, `10GB` is 10^10, `512M` is binary. Rates end in `/s`
(`900GB/s`), counts of operations are decimal (`312T`). Nothing may exceed 2^63 - 1.

    device cuda:0 memory 10GiX

Write `memory 10GiB`, in one word.""",
)
MALFORMED_PATTERN: Final = Rule(
    "malformed-pattern",
    Severity.ERROR,
    "a path or pattern cannot be expanded",
    """\
Braces expand as in a shell: `{0..3}` and `{q_proj,k_proj}`; they are balanced, and one text names at
most two million paths. A path has no empty names. A name with unusual characters is quoted.

    place model.layers.{0..5 on cuda:0

Close the brace: `place model.layers.{0..5} on cuda:0`.""",
)
PIN_INSIDE_ATOMIC: Final = Rule(
    "pin-inside-atomic",
    Severity.ERROR,
    "a line would cut a module that is never split",
    """\
An atomic module is on one device, because its own code mixes the tensors of its children. A child that is
called may be elsewhere: it is visited, its results come back. A bare tensor cannot be, nor a child whose
weights are used past its call or that changes what it is handed; a trace writes `never ... on visiting`
for those.

    atomic class GPT2Block
    place transformer.h.3.scale on cpu

Place the whole module (`place transformer.h.3 on cpu`), or remove the `atomic` line.""",
)
PINS_OVER_BUDGET: Final = Rule(
    "pins-over-budget",
    Severity.ERROR,
    "the lines put more on a device than it has",
    """\
What `place` lines put on a device, together with its reserves and margin, exceeds its memory.

    device cuda:0 memory 1GiB reserve 200MiB
    place model.embed_tokens on cuda:0      # 1002MiB

Move something elsewhere or raise the budget; the message says by how much.""",
)
REPEATED_LINE: Final = Rule(
    "repeated-line",
    Severity.ERROR,
    "a line that may stand once stands twice",
    """\
A text has one `plan` line, one `model` line and one line for each `option`; a device line names each
attribute once.

    option strategy "auto"
    option strategy "accelerate"

Keep the line that is meant.""",
)
RENAMED_PREFIX: Final = Rule(
    "renamed-prefix",
    Severity.ERROR,
    "the model's names moved to another prefix",
    """\
The lines name nothing in this model, but all of them would if one prefix were exchanged. Models move
between versions (`language_model.` became `model.language_model.`) and wrappers add a prefix
(`base_model.model.` with PEFT).

    place language_model.layers.0 on cuda:0      # the model has model.language_model.layers.0

Exchange the prefix in all lines; the message gives the rename.""",
)
SPLIT_OF_LEAF: Final = Rule(
    "split-of-leaf",
    Severity.ERROR,
    "there is nothing to split",
    """\
A module without child modules, or a tensor, cannot be opened further.

    split lm_head

Name a module that has children, or remove the line.""",
)
UNEXPECTED_WORD: Final = Rule(
    "unexpected-word",
    Severity.ERROR,
    "a line does not read as its keyword demands",
    """\
Each statement has one form, shown in the help. Words are separated by blanks; names with unusual
characters stand between quotes.

    place model.norm at cuda:0

Write `place model.norm on cuda:0`.""",
)
UNKNOWN_CLASS: Final = Rule(
    "unknown-class",
    Severity.ERROR,
    "no module of the model has this class",
    """\
A misspelled class would silently allow what it should forbid: blocks cut in half.

    atomic class GTP2Block

Write the class as `type(module).__name__` says: `atomic class GPT2Block`.""",
)
UNKNOWN_DEVICE: Final = Rule(
    "unknown-device",
    Severity.ERROR,
    "this is not the name of a device",
    """\
A device is a type, with an index and a host where needed: `cuda:0`, `mps`, `cpu`, `disk`,
`node1/cuda:3`. A bare number is a CUDA device.

    place lm_head on gpu7

Write `place lm_head on cuda:7`.""",
)
UNKNOWN_KEYWORD: Final = Rule(
    "unknown-keyword",
    Severity.ERROR,
    "a line starts with a word that is no statement",
    """\
Every line starts with a keyword (`place`, `device`, `never`, ...) or with `#` for a comment.

    plcae lm_head on cuda:0

Write `place lm_head on cuda:0`.""",
)
UNKNOWN_PATH: Final = Rule(
    "unknown-path",
    Severity.ERROR,
    "a path or pattern names nothing in the model",
    """\
A line that names nothing would decide nothing, while its author believes it did.

    place model.layerz.0 on cuda:0

Correct the path: `place model.layers.0 on cuda:0`.""",
)
UNSUPPORTED_VERSION: Final = Rule(
    "unsupported-version",
    Severity.ERROR,
    "the text is written in another version of the language",
    """\
The first line says which version of the language the text is written in; this release reads 1.

    plan 2

Convert the text with the release that wrote it, or install a newer compile-plan.""",
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

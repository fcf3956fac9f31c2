"""Rules of the command line: what was asked cannot be understood, or we failed."""

from __future__ import annotations

from typing import Final

from ..diagnostic import Rule, Severity

BAD_OPTION_VALUE: Final = Rule(
    "bad-option-value",
    Severity.ERROR,
    "an option has a value it cannot have",
    """\
Sizes are `10GiB`, `512MiB`, `1.5GB` or plain bytes; lists are written `NAME=SIZE,NAME=SIZE`; options
like `--strategy` take one of a few words. The message names the option and what it takes.

    compile-plan model.py --margin 10GiX

Write the value as the help line says.""",
)
BAD_PIPELINE: Final = Rule(
    "bad-pipeline",
    Severity.ERROR,
    "the passes of `--passes` cannot run in this order on this plan",
    """\
Every pass says what it needs: `merge-ties` needs to know the tensors, `assign-greedy` needs sizes
and units. A list given with `--passes` runs as it is written, nothing is added to it, and must place
something: `--print-after` shows the plan on its way.

    compile-plan tied.plan --passes assign-greedy

Put the passes that give what is missing in front: `annotate-sizes,merge-ties,expand-splits`.""",
)
BAD_USAGE: Final = Rule(
    "bad-usage",
    Severity.ERROR,
    "the command line is incomplete, or asks for two things at once",
    """\
A run needs an INPUT, or one of the options that work without: `--diff`, `--format-plan`,
`--explain-code`, `--version`.

    compile-plan -o plan.msgpack

`compile-plan --help` shows the common ways to call it.""",
)
CANNOT_REPLAN: Final = Rule(
    "cannot-replan",
    Severity.ERROR,
    "a plan without its module table cannot be placed anew",
    """\
A plan read from a `.plan` text or a device map says where things are, not what the model consists
of. Converting it works; placing it again needs sizes and children.

    compile-plan edited.plan --memory cuda:0=10GiB

Start from the model or checkpoint, or from a `.msgpack` plan or a text printed `--with-modules`: both
carry the table.""",
)
CANNOT_VERIFY: Final = Rule(
    "cannot-verify",
    Severity.ERROR,
    "the forward cannot be replayed under the plan",
    """\
`--verify` runs the model's forward once on the meta device and follows every tensor. That takes the
model itself (a checkpoint or a plan has no forward) and inputs its forward can be called with.

    compile-plan model.py --override plan.plan --verify --inputs "input_ids=int64[1,128]"

Inputs are taken from `--inputs`, from `example_inputs` of the model's file, or made from a transformers
config; `--batch` and `--seq` size the made ones.""",
)
INTERNAL_ERROR: Final = Rule(
    "internal-error",
    Severity.ERROR,
    "a bug in compile-plan",
    """\
Something happened that must not happen, whatever the input was. Nothing was written.

Please report it with the command, the notes below the message and, if you can share it, the input.
With `COMPILE_PLAN_DEBUG=1` in the environment the traceback is printed as well.""",
)
NOT_FORMATTED: Final = Rule(
    "not-formatted",
    Severity.WARNING,
    "`--check` found a file that is not in the canonical layout",
    """\
The formatter changes blanks, quotes and empty lines, never the meaning, and keeps every comment.

    compile-plan --format-plan edits.plan --check

Run the same command without `--check` to rewrite the file.""",
)
OPTION_WITHOUT_EFFECT: Final = Rule(
    "option-without-effect",
    Severity.ERROR,
    "an option would change nothing for this input, or beside another option",
    """\
What is asked for is done or refused, never ignored. A checkpoint is planned from its headers, so there is
no forward that `--seq` could size; `--no-fallback` is a habit of the strategy `accelerate` alone.

    compile-plan plan.msgpack --seq 128

Leave the option out, or give what it needs: the message says what that is.""",
)
UNKNOWN_CODE: Final = Rule(
    "unknown-code",
    Severity.ERROR,
    "no diagnostic has this code",
    """\
`--explain-code` takes the word in brackets of an error or a warning.

    compile-plan --explain-code tie-across-device

Copy the code from the message: `tie-across-devices`.""",
)
UNKNOWN_OPTION: Final = Rule(
    "unknown-option",
    Severity.ERROR,
    "the command has no such option",
    """\
Options are never abbreviated, so that a script keeps its meaning when options are added.

    compile-plan model.py --mem cuda:0=10GiB

Write it out: `--memory`. `compile-plan --help-all` lists every option.""",
)
UNKNOWN_PASS: Final = Rule(
    "unknown-pass",
    Severity.ERROR,
    "no pass has this name, or the pass has no such option",
    """\
`--passes` and `--print-after` take names of passes; options of a pass follow in braces.

    compile-plan tied.plan --passes merge-tie

The message lists the passes there are.""",
)
UNKNOWN_UNIT: Final = Rule(
    "unknown-unit",
    Severity.ERROR,
    "`--explain` names a path that is not in the plan",
    """\
`--explain` takes the full dotted path of a module, a parameter or a buffer.

    compile-plan plan.msgpack --explain layers.3

The message suggests the nearest path.""",
)

ALL: Final = (
    BAD_OPTION_VALUE,
    BAD_PIPELINE,
    BAD_USAGE,
    CANNOT_REPLAN,
    CANNOT_VERIFY,
    INTERNAL_ERROR,
    NOT_FORMATTED,
    OPTION_WITHOUT_EFFECT,
    UNKNOWN_CODE,
    UNKNOWN_OPTION,
    UNKNOWN_PASS,
    UNKNOWN_UNIT,
)

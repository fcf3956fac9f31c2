"""The options of the command as one table: the parser and both help pages are made from it.

argparse only splits the command line here; values stay strings until `values` reads them, so that
everything wrong with them is reported at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final, NoReturn

from ...ir import Diagnostic, PlanError
from ...ir.near import near_name
from ...ir.rules.usage import BAD_USAGE, UNKNOWN_OPTION
from ...ir.visible import pasted
from .foreign_options import pointer, translated

USAGE: Final = "usage: compile-plan INPUT [-o OUT] [options]"
EXITS: Final = "exit: 0 done, 1 errors reported, 2 bad usage, 3 --check found changes"
_ABOUT: Final = f"""\
{USAGE}

Decides which part of a PyTorch model is stored on which device, and says why.

  compile-plan model.py -o plan.msgpack           for the memory of this machine
  compile-plan model.py --memory cuda:0=10GiB,cpu=64GiB
  compile-plan ./checkpoint-dir -o report.html    from safetensors headers alone

INPUT is model.py, model.py:build, a checkpoint or config folder, or a plan
(.plan, .msgpack, .json).
"""
_COLUMN: Final = 26


@dataclass(frozen=True, slots=True)
class Flag:
    """One option: its spellings, what its value is called, and its line of help."""

    names: tuple[str, ...]
    help: str
    value: str = ""
    """Name of the value; empty for a switch."""
    action: str = "store"
    """``store``, ``append`` (may be repeated), ``store_true``, or ``store_const`` with False."""
    nargs: str | int | None = None
    common: bool = False
    """Whether ``--help`` shows it; ``--help-all`` shows every one."""

    @property
    def destination(self) -> str:
        """Return the attribute of the parsed arguments."""
        return (
            max(self.names, key=len).removeprefix("--").replace("no-fallback", "fallback").replace("-", "_")
        )


def _switch(name: str, text: str, *, common: bool = False, short: str | None = None) -> Flag:
    return Flag((short, name) if short else (name,), text, action="store_true", common=common)


def _many(name: str, value: str, text: str, *, common: bool = False, short: str | None = None) -> Flag:
    return Flag((short, name) if short else (name,), text, value, action="append", common=common)


GROUPS: Final[tuple[tuple[str, tuple[Flag, ...]], ...]] = (
    (
        "result",
        (
            Flag(("-o", "--output"), "write .plan, .msgpack, .json or .html; - prints", "OUT", common=True),
            Flag(("--to",), "form to write, whatever the suffix: plan, msgpack, device-map, …", "FORM"),
            Flag(("--for",), "what another engine is told: llama.cpp, vllm, sglang, mlx-lm, …", "ENGINE"),
            Flag(("--read",), "places from the line llama-fit-params printed", "LINE"),
            _switch("--with-modules", "print the module table too, for a text complete without the model"),
            Flag(("--format",), "what is printed: text, or json for machines", "KIND"),
        ),
    ),
    (
        "memory",
        (
            _many("--memory", "LIST", "budgets, cuda:{0..7}=80GiB,cpu=1TiB; default: all free", common=True),
            Flag(("--machine",), "a machine remembered by name, or a .plan with device lines", "NAME"),
            Flag(
                ("--save",),
                "with --memory: remember the machine by this name; with --calibrate: keep the rates",
                "NAME",
                nargs="?",
            ),
            _many("--reserve", "LIST", "bytes kept free, cuda:0=1GiB"),
            Flag(("--margin",), "bytes never planned with, on every accelerator", "SIZE"),
            Flag(("--runtime",), "bytes the driver and its libraries take of every accelerator", "SIZE"),
            Flag(("--kv-cache",), "bytes of KV cache of the whole model", "SIZE"),
            Flag(
                ("--dtype",),
                "what floating-point weights are loaded as, float16; several: a table over them",
                "DTYPE",
            ),
        ),
    ),
    (
        "placing",
        (
            _many("--override", "FILE", "a .plan whose lines win; repeatable", common=True),
            _many("--no-split", "CLASS", "never cut modules of this class; repeatable", common=True),
            Flag(
                ("--strategy",), "auto, sequential, balanced, balanced_low_0, accelerate", "NAME", common=True
            ),
            Flag(
                ("--objective",),
                "latency, accelerator-bytes, fewest-devices, balance, headroom, throughput",
                "NAME",
            ),
            Flag(("--offload",), "what fits no accelerator: auto, stream, compute, none", "HOW", common=True),
            _switch("--offload-buffers", "buffers of streamed modules may stay off the accelerators"),
            Flag(
                ("--fallback",), "strategy accelerate: fill an empty device out of order", action="store_true"
            ),
            Flag(("--no-fallback",), "strategy accelerate: leave it empty", action="store_false"),
            Flag(("--time-limit",), "seconds after which the exact search is ended (60)", "SECONDS"),
            _switch("--trust-remote-code", "run code that comes with a config folder"),
        ),
    ),
    (
        "what the model is used for",
        (
            Flag(("--workload",), "generate, forward, loss or train: what is counted", "KIND"),
            Flag(("--rows",), "sequences at a time (1)", "N"),
            Flag(("--prompt",), "tokens read per request (512)", "TOKENS"),
            Flag(("--generate",), "tokens written per request (128)", "TOKENS"),
            Flag(("--optimizer",), "what --workload train takes a step of (adamw)", "NAME"),
        ),
    ),
    (
        "tracing (runs the forward on the meta device)",
        (
            Flag(("--inputs",), "what the forward takes: input_ids=int64[1,128]", "LIST"),
            Flag(("--batch",), "requests at a time in the forward, instead of --rows", "N"),
            Flag(("--seq",), "tokens of a request", "N"),
            Flag(("--cache-tokens",), "tokens the KV cache must hold", "N"),
            _switch("--verify", "replay the forward and name device mix-ups", common=True),
        ),
    ),
    (
        "running",
        (
            Flag(
                ("--try",), "load the folder by the plan, go on from a prompt, measure", "PROMPT", common=True
            ),
        ),
    ),
    (
        "looking closer",
        (
            Flag(
                ("--explain",), "why a module is where it is, and what would change it", "PATH", common=True
            ),
            Flag(("--explain-code",), "the page of a diagnostic's code; --help CODE is the same", "CODE"),
            _switch("--codes", "every code with what it means"),
            Flag(("--diff",), "what moved between two plans", "PLAN", nargs=2, common=True),
            _many("--print-after", "PASS", "print the plan after a pass, or after all of them, to stderr"),
            Flag(("--passes",), "run these passes only: merge-ties,expand-splits", "LIST"),
        ),
    ),
    (
        "plan files",
        (
            Flag(
                ("--format-plan",),
                "rewrite .plan files in the canonical layout",
                "FILE",
                nargs="+",
                common=True,
            ),
            _switch("--check", "with --format-plan or --diff: change nothing, exit 3 if there is a change"),
            _switch("--lsp", "answer an editor: a language server on standard input and output"),
        ),
    ),
    (
        "other",
        (
            _switch("--calibrate", "measure this machine's memory, links and disk: device lines"),
            Flag(("--completion",), "a script that completes options in bash, zsh or tcsh", "SHELL"),
            _switch("--all", "show every warning and every unit, folded or not"),
            _switch("--quiet", "no table, no warnings; errors only", short="-q"),
            Flag(("--color",), "auto, always or never", "WHEN"),
            _switch("--version", "print the version"),
            _switch("--help-all", "every option", common=True),
            _switch("--help", "this page", short="-h"),
        ),
    ),
)
FLAGS: Final = tuple(flag for _, flags in GROUPS for flag in flags)


def help_page(*, every: bool) -> str:
    """Return the page ``--help`` shows, one screen, or the one with every option."""
    if not every:
        lines = [_row(flag) for flag in FLAGS if flag.common]
        return "\n".join([_ABOUT, *lines, "", EXITS]) + "\n"
    sections = [f"{title}:\n" + "\n".join(_row(flag) for flag in flags) + "\n" for title, flags in GROUPS]
    return "\n".join([_ABOUT, *sections, EXITS]) + "\n"


def _row(flag: Flag) -> str:
    *shorter, name = flag.names
    short = "".join(f"{each}, " for each in shorter) or "    "
    match flag.nargs:
        case "+":
            value = f"{flag.value}…"
        case 2:
            value = f"{flag.value} {flag.value}"
        case "?":
            value = f"[{flag.value}]"
        case _:
            value = flag.value
    head = f"  {short}{name} {value}".rstrip()
    lines = list(_folded(flag.help))
    if len(head) >= _COLUMN:
        return "\n".join([head, *(" " * _COLUMN + line for line in lines)])
    return "\n".join([f"{head:<{_COLUMN}}{lines[0]}", *(" " * _COLUMN + line for line in lines[1:])])


def _folded(text: str, width: int = 80 - _COLUMN) -> Iterator[str]:
    line = ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > width:
            yield line
            line = word
        else:
            line = f"{line} {word}" if line else word
    yield line


class _Parser(argparse.ArgumentParser):
    """argparse, its errors as diagnostics."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print before it exits."""
        help_ = "`compile-plan --help` shows what there is"
        raise PlanError([Diagnostic(BAD_USAGE, _readable(message), help=help_)])


def _readable(message: str) -> str:
    """Turn ``argument -o/--output: expected one argument`` into a sentence of ours."""
    option, colon, what = message.removeprefix("argument ").partition(": ")
    if not colon:
        return message
    name = f"`{option.rpartition('/')[2]}`"
    counts = {"expected one argument": "needs a value", "expected 2 arguments": "needs two values"}
    return f"{name} {counts.get(what, 'needs at least one value' if what.startswith('expected') else what)}"


def make_parser() -> argparse.ArgumentParser:
    """Return argparse's own description of the command."""
    parser = _Parser(prog="compile-plan", add_help=False, allow_abbrev=False)
    parser.add_argument("input", nargs="?")
    for flag in FLAGS:
        if flag.action.startswith("store_"):
            switch_default = None if flag.destination == "fallback" else False
            parser.add_argument(
                *flag.names, dest=flag.destination, action=flag.action, default=switch_default
            )
        elif flag.nargs == "?":
            parser.add_argument(*flag.names, dest=flag.destination, nargs="?", const="")
        else:
            parser.add_argument(*flag.names, dest=flag.destination, action=flag.action, nargs=flag.nargs)
    return parser


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Split a command line; raises `PlanError` with every option that does not exist."""
    arguments, unknown = make_parser().parse_known_args(translated(argv))
    options = [word for word in unknown if word.startswith("-")]
    if unknown:  # a word after an option that does not exist was meant as its value
        following = dict(pairwise(argv))
        first = arguments.input or ""
        raise PlanError(_not_known(word, following.get(word, ""), first) for word in options or unknown)
    return arguments


def suggestion(word: str, known: Sequence[str]) -> str | None:
    """Return what was probably meant: the one that starts like it, or the one spelled nearly like it."""
    longer = [name for name in known if len(word) > len("--") and name.startswith(word)]
    return longer[0] if len(longer) == 1 else near_name(word, known)


def _too_many(first: str, word: str) -> str:
    """Say what a second INPUT was probably meant as."""
    from ...backends import BACKENDS  # only what is wrong opens them here

    forms = tuple(backend.suffix for backend in BACKENDS.values())
    if "=" in word and "/" not in word.partition("=")[0]:
        return f"sizes are joined by commas, without blanks: `--memory cuda:0=24GiB,{word}`"
    if word.lower().endswith(forms) and Path(word).exists():
        return f"compare two plans with `--diff {pasted(first)} {pasted(word)}`"
    if word.lower().endswith(forms):
        return f"write the plan with `-o {pasted(word)}`"
    if "." not in first and not Path(first).exists():
        return f"there are no commands: `compile-plan {pasted(word)}`"
    return "give one input; quote a path that has blanks in it"


def _not_known(word: str, following: str, first: str) -> Diagnostic:
    option, _, value = word.partition("=")
    value = value or ("" if following.startswith("-") else following)
    if not option.startswith("-"):
        message = f"there is one INPUT, `{word}` is one too many"
        return Diagnostic(BAD_USAGE, message, help=_too_many(first, word))
    known = [name for flag in FLAGS for name in flag.names if name.startswith("--")]
    pointed = pointer(option, value)
    if pointed is not None:
        return Diagnostic(UNKNOWN_OPTION, f"there is no option `{option}`", help=pointed)
    near = suggestion(option, known)
    return Diagnostic(
        UNKNOWN_OPTION,
        f"there is no option `{option}`",
        help=f"did you mean `{near}`?" if near else "`compile-plan --help-all` lists every option",
    )

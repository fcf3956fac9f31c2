"""The command: arguments in, exit code out; what is done is decided by the modules it calls.

Exit codes: 0 done, 1 errors reported, 2 bad usage, 3 ``--check`` found something to change, 70 a bug
of ours, 130 interrupted, 141 the reader of our output went away.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from ...ir import RULES, Diagnostic, Diagnostics, PlanError
from ...ir.rules.usage import INTERNAL_ERROR
from .arguments import help_page, parse_arguments
from .console import Console, OutputLostError, give_up_output, leave_pipe, standard_console
from .named_machines import keep_machine
from .values import Request, read_request

DONE: Final = 0
FAILED: Final = 1
MISUSED: Final = 2
OUR_BUG: Final = 70
INTERRUPTED: Final = 130
_DEBUG: Final = "COMPILE_PLAN_DEBUG"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code; nothing but that leaves this function."""
    console = standard_console()
    try:
        return _run(sys.argv[1:] if argv is None else list(argv), console)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return leave_pipe()
    except OutputLostError as lost:
        replace(console, json=False).failure([lost.diagnostic])
        give_up_output()
        return FAILED


def _run(argv: Sequence[str], console: Console) -> int:
    if not {"-h", "--help", "--help-all"}.isdisjoint(argv):
        return _help(argv, console)
    console = replace(console, json="--format=json" in argv or "--format json" in " ".join(argv))
    diagnostics = Diagnostics()
    try:
        arguments = parse_arguments(argv)
        if arguments.version:
            console.text(f"compile-plan {_version()}\n")
            return DONE
        if arguments.lsp:
            from ..lsp import serve

            serve()
            return DONE
        request = read_request(arguments, diagnostics)
        diagnostics.raise_errors()
    except PlanError as error:
        console.failure(error.diagnostics)
        return MISUSED
    console = replace(
        console, color=request.color, json=request.json, unfold=request.unfold, quiet=request.quiet
    )
    with console.alone() as own:
        return _guarded(request, own)


def _help(argv: Sequence[str], console: Console) -> int:
    """Print a page of options, or that of a code after ``--help``."""
    asked = next((word for word in argv if word.strip() in RULES), None)
    if asked is None:
        console.text(help_page(every="--help-all" in argv))
        return DONE
    from .plans import explain_code

    return explain_code(asked, console)


def _guarded(request: Request, console: Console) -> int:
    try:
        return _dispatch(request, console)
    except PlanError as error:
        console.failure(error.diagnostics)
        return FAILED
    except (BrokenPipeError, OutputLostError):
        raise
    except Exception as error:  # noqa: BLE001  # a bug of ours must not look like the user's
        if os.environ.get(_DEBUG):
            console.say(traceback.format_exc())
        console.failure([_internal_error(error)])
        return OUR_BUG


def _dispatch(request: Request, console: Console) -> int:
    alone = _alone(request, console)
    if alone is not None:
        return alone()
    if request.save:
        keep_machine(request.save, request.options.devices or ())
        console.note(f"remembered: `--machine {request.save}`\n")
        if request.input is None:
            return DONE
    if request.dtypes:
        from .dtype_table import print_dtype_table

        return print_dtype_table(request, console)
    from .compiling import compile_input

    return compile_input(request, console)


def _alone(request: Request, console: Console) -> Callable[[], int] | None:
    """Return the command that an option is of its own; None where an input is compiled."""
    from . import plans

    found: Callable[[], int] | None = None
    if request.explain_code is not None:
        found = partial(plans.explain_code, request.explain_code, console)
    elif request.codes:
        found = partial(plans.list_codes, console)
    elif request.format_plan:
        found = partial(plans.format_plans, request.format_plan, console, check=request.check)
    elif request.diff is not None:
        found = partial(
            plans.diff_plan_files, request.diff, console, check=request.check, output=request.output
        )
    elif request.completion is not None:
        from .completing import print_completion

        found = partial(print_completion, request.completion, console)
    elif request.calibrate:
        from .calibrating import calibrate

        found = partial(calibrate, console, save=request.save)
    return found


def _version() -> str:
    from importlib.metadata import version

    return version("compile-plan")


def _internal_error(error: Exception) -> Diagnostic:
    """Describe a bug of ours: the exception, and the pass it came from if it came from one."""
    frames = traceback.extract_tb(error.__traceback__)
    passes = [Path(frame.filename) for frame in frames if Path(frame.filename).parent.name == "passes"]
    summary = "".join(traceback.format_exception_only(error)).strip()
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "unknown"
    notes = [f"{summary}, at {place}", f"compile-plan {_version()}, Python {sys.version.split()[0]}"]
    where = ""
    if passes:
        name = passes[0].stem.replace("_", "-")
        where = f" in the pass `{name}`"
        notes.append("`--print-after all` shows the plan it was given")
    return Diagnostic(
        INTERNAL_ERROR,
        f"compile-plan made a mistake{where}; nothing was written",
        notes=tuple(notes),
        help=f"please report this with the command and these notes; `{_DEBUG}=1` adds the traceback",
    )

"""Files of the command: texts read and results written, each failure a diagnostic."""

from __future__ import annotations

import os
from typing import Final

from ...backends import BACKENDS, Backend, backend_for
from ...backends.plan_files import write_bytes
from ...backends.whole_files import descriptor_of
from ...grammar import print_plan
from ...ir import Diagnostic, Plan, PlanError, human_size
from ...ir.near import near_name
from ...ir.rules.planfile import NO_SUCH_FOLDER
from ...ir.rules.usage import BAD_OPTION_VALUE
from ...ir.visible import pasted, visible
from ...ir.wording import in_words
from .console import Console
from .values import Request, wrong_value

STANDARD_OUTPUT: Final = "-"


def output_form(request: Request) -> Backend | None:
    """Return the form to write, or None when nothing is; raises `PlanError` before any work is done."""
    if request.engine is not None:
        from .engines import engine_form

        return engine_form(request.engine, to_file=request.output not in {None, STANDARD_OUTPUT})
    if request.form is not None:
        return _named_form(request.form)
    if request.output is None:
        return BACKENDS["plan"] if request.passes is not None else None
    if request.output == STANDARD_OUTPUT:
        return BACKENDS["plan"]
    folder = os.path.dirname(request.output) or "."  # noqa: PTH120  # a `Path` refuses what a name cannot be
    if not os.path.isdir(folder):  # noqa: PTH112  # nor does this raise for a forbidden or over-long one
        there = os.path.lexists(folder)
        message = f"the folder of `{request.output}` {'is not a folder' if there else 'does not exist'}"
        help_ = "write to another path" if there else f"run `mkdir -p {pasted(folder)}` first"
        raise PlanError([Diagnostic(NO_SUCH_FOLDER, message, help=help_)])
    return backend_for(request.output)


def _named_form(name: str) -> Backend:
    if name in BACKENDS:
        return BACKENDS[name]
    near = near_name(name, BACKENDS)
    help_ = f"did you mean `{near}`?" if near else f"use one of {in_words(BACKENDS)}"
    raise PlanError([wrong_value("--to", name, f"there is no form `{name}`", help_)])


def write_result(plan: Plan, form: Backend, request: Request, console: Console) -> None:
    """Write a plan where the request wants it: whole, or not at all."""
    if form.name == "plan" and (request.with_modules or request.passes is not None):
        data = print_plan(plan, with_modules=True).encode("utf-8", "surrogatepass")
    else:
        data = form.emit(plan)
    target = request.output
    if target is None or is_standard_output(target):
        _print(data, form, console)
        return
    write_bytes(data, target)
    console.note(f"wrote {visible(target)} ({human_size(len(data))}, {form.name})\n")


def is_standard_output(target: str | None) -> bool:
    """Say whether a name is that of our own standard output, which is open already."""
    try:
        return target is not None and (target == STANDARD_OUTPUT or descriptor_of(target) == 1)
    except (OSError, ValueError):
        return False  # a loop of links, or no name at all: writing says so


def _print(data: bytes, form: Backend, console: Console) -> None:
    try:
        console.text(data.decode("utf-8", "surrogatepass"))
    except UnicodeDecodeError:
        buffer = getattr(console.out, "buffer", None)
        if buffer is None or console.out.isatty():
            message = f"`{form.name}` is binary, a terminal cannot show it"
            help_ = "write it to a file: `-o plan.msgpack`"
            raise PlanError([Diagnostic(BAD_OPTION_VALUE, message, help=help_)]) from None
        console.bytes(data)

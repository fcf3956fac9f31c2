"""Files of the command: texts read and results written, each failure a diagnostic."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ...backends import BACKENDS, Backend, backend_for
from ...backends.plan_files import write_bytes
from ...grammar import print_plan
from ...ir import Diagnostic, Plan, PlanError, human_size
from ...ir.near import near_name
from ...ir.rules.planfile import NO_SUCH_FOLDER
from ...ir.rules.usage import BAD_OPTION_VALUE
from .console import Console
from .values import Request, wrong_value

STANDARD_OUTPUT: Final = "-"


def output_form(request: Request) -> Backend | None:
    """Return the form to write, or None when nothing is; raises `PlanError` before any work is done."""
    if request.form is not None:
        return _named_form(request.form)
    if request.output is None:
        return BACKENDS["plan"] if request.passes is not None else None
    if request.output == STANDARD_OUTPUT:
        return BACKENDS["plan"]
    folder = Path(request.output).parent
    if not folder.is_dir():
        message = f"the folder of `{request.output}` does not exist"
        raise PlanError([Diagnostic(NO_SUCH_FOLDER, message, help=f"run `mkdir -p {folder}` first")])
    return backend_for(request.output)


def _named_form(name: str) -> Backend:
    if name in BACKENDS:
        return BACKENDS[name]
    near = near_name(name, BACKENDS)
    known = ", ".join(f"`{each}`" for each in BACKENDS)
    help_ = f"did you mean `{near}`?" if near else f"use one of {known}"
    raise PlanError([wrong_value("--to", name, f"there is no form `{name}`", help_)])


def write_result(plan: Plan, form: Backend, request: Request, console: Console) -> None:
    """Write a plan where the request wants it: whole, or not at all."""
    if form.name == "plan" and (request.with_modules or request.passes is not None):
        data = print_plan(plan, with_modules=True).encode("utf-8", "surrogatepass")
    else:
        data = form.emit(plan)
    target = request.output
    if target is None or target == STANDARD_OUTPUT:
        _print(data, form, console)
        return
    write_bytes(data, target)
    console.note(f"wrote {target} ({human_size(len(data))}, {form.name})\n")


def _print(data: bytes, form: Backend, console: Console) -> None:
    try:
        console.text(data.decode("utf-8", "surrogatepass"))
    except UnicodeDecodeError:
        buffer = getattr(console.out, "buffer", None)
        if buffer is None or console.out.isatty():
            message = f"`{form.name}` is binary, a terminal cannot show it"
            help_ = "write it to a file: `-o plan.msgpack`"
            raise PlanError([Diagnostic(BAD_OPTION_VALUE, message, help=help_)]) from None
        console.out.flush()
        buffer.write(data)
        buffer.flush()

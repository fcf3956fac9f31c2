"""The main command: an input of any kind becomes a plan, which is shown and written."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ...backends import Backend
from ...ir import Diagnostic, Diagnostics, Model, Plan, PlanError
from ...ir.rules.usage import OPTION_WITHOUT_EFFECT
from ...ir.visible import visible
from ..driver.compile import with_hops
from ..driver.effects import Holding
from ..driver.inputs import Opened, built_from_config, comes_back, compile_opened, open_input, traced_inputs
from ..driver.options import AUTOMATIC
from ..driver.workload import with_workload
from ..lines.binding import bind_plan
from ..lines.files import read_overrides
from .console import Console
from .report import ASCII, BLOCKS, report, report_data
from .terminal import can_show
from .text_files import is_standard_output, output_form, write_result
from .values import Request, spelled

if TYPE_CHECKING:
    from torch import nn

    from ..tracing import Verification
    from ..tracing.inputs.example_inputs import Inputs
    from .pass_list import Chosen
    from .trying import Tried

_DONE: Final = 0
_FAILED: Final = 1


def compile_input(request: Request, console: Console) -> int:
    """Compile, show and write; returns the exit code."""
    assert request.input is not None  # noqa: S101  # checked with the usage
    form = output_form(request)
    written = read_overrides(request.overrides)
    overrides = with_links(request, written)
    request = replace(request, options=with_workload(request.options, (*_asked(request), *overrides)))
    chosen = _chosen_passes(request, overrides, console)
    with contextlib.redirect_stdout(sys.stderr):  # what the user's file prints is no result
        opened = open_input(request.input, request.options, overrides)
        overrides = (*overrides, *_engine_lines(opened, request))
        model = _model_to_replay(opened, request) if request.verify else None
        plan = _compile(opened, request, overrides, chosen, replayed=model is not None)
        if request.with_modules and plan.tree is None:
            message = f"`--with-modules` has no effect: `{opened.label}` has no module table"
            raise PlanError([Diagnostic(OPTION_WITHOUT_EFFECT, message, help="start from the model")])
        plan = _within_engine(plan, opened, request, pinned=any(lines.units for lines in written))
        verification = None if model is None else _verify(opened, plan, model, request)
        if verification is not None and verification.lawful:  # what was placed without a trace, too
            plan = with_hops(plan, verification.hops)
        tried = None if request.trial is None else _try(plan, request)
    return _show(plan, form, verification, tried, request, console)


def with_links(request: Request, lines: tuple[Plan, ...]) -> tuple[Plan, ...]:
    """Return override lines behind what the machine that was named says of its links."""
    return (Plan(Model(""), links=request.machine_links), *lines) if request.machine_links else lines


def _chosen_passes(request: Request, overrides: tuple[Plan, ...], console: Console) -> Chosen | None:
    """Return what ``--passes`` and ``--print-after`` ask for; None, the rule, opens no pass yet."""
    if request.passes is None and not request.print_after:
        return None
    from .pass_list import read_chosen

    return read_chosen(request.passes, request.print_after, overrides, console)


def _asked(request: Request) -> tuple[Plan, ...]:
    """Return what an engine's line is for: how much is kept beside the weights is told as they are read."""
    if request.engine_line is None:
        return ()
    from .engines import engine_asks

    return engine_asks(request.engine, request.engine_line)


def _engine_lines(opened: Opened, request: Request) -> tuple[Plan, ...]:
    if request.engine is None and request.engine_line is None:
        return ()
    from .engines import engine_lines

    return engine_lines(request.engine, request.engine_line, opened.lowered(), request.options.devices)


def _within_engine(plan: Plan, opened: Opened, request: Request, *, pinned: bool) -> Plan:
    """Return what the engine can be told, unless places were written by a person or by the engine."""
    if request.engine is None or request.engine_line is not None or pinned:
        return plan
    if opened.plan is not None and any(unit.store is not None for unit in opened.plan.units):
        return plan
    from .engines import within_engine

    return within_engine(request.engine, plan, request.options)


def _compile(
    opened: Opened, request: Request, overrides: tuple[Plan, ...], chosen: Chosen | None, *, replayed: bool
) -> Plan:
    if chosen is not None and chosen.passes is not None:
        return _run_alone(opened, request, chosen)
    if chosen is not None and comes_back(opened, request.options, overrides):
        message = "`--print-after` has no effect on a plan that is finished: no pass runs"
        help_ = "add an option that places, such as `--memory`"
        raise PlanError([Diagnostic(OPTION_WITHOUT_EFFECT, message, help=help_)])
    inputs: Inputs = request.inputs
    if inputs is None and replayed and opened.subject is not None and opened.example_inputs is None:
        inputs = AUTOMATIC
    return compile_opened(
        opened,
        request.options,
        overrides,
        example_inputs=inputs,
        after=None if chosen is None else chosen.printed,
        spelled=spelled,
        replayed=replayed,
    )


def _run_alone(opened: Opened, request: Request, chosen: Chosen) -> Plan:
    """Run the listed passes; the lines of a plan are bound first, as on every road."""
    diagnostics = Diagnostics()
    if request.inputs is not None and not request.verify:
        message = "`--inputs` has no effect with `--passes`: none of them traces"
        raise PlanError([Diagnostic(OPTION_WITHOUT_EFFECT, message, help="leave it out")])
    plan = opened.lowered()
    if request.options.devices is not None:
        plan = replace(plan, devices=request.options.devices)
    if plan.tree is not None and not plan.ledger:
        plan = bind_plan(plan, plan.tree, diagnostics, complete=False)
        diagnostics.raise_errors()
    plan = chosen.run(plan, diagnostics)
    return replace(plan, diagnostics=tuple(dict.fromkeys((*plan.diagnostics, *diagnostics))))


def _model_to_replay(opened: Opened, request: Request) -> nn.Module:
    """Return the model whose forward is replayed: the input, or what the config beside its weights builds."""
    if opened.subject is not None:
        return opened.subject.model()
    path = Path(request.input or "")
    config = (path if path.is_dir() else path.parent) / "config.json"
    if opened.holds is Holding.HEADERS and config.is_file():
        return built_from_config(config, request.options)
    from .verifying import no_forward

    raise no_forward(request.input or "")


def _verify(opened: Opened, plan: Plan, model: nn.Module, request: Request) -> Verification:
    from .verifying import replayed

    inputs = traced_inputs(opened, request.options, request.inputs)
    return replayed(plan, model, AUTOMATIC if inputs is None else inputs, request.options)


def _try(plan: Plan, request: Request) -> Tried:
    from .trying import try_plan

    return try_plan(plan, request)


def _show(  # what a compile may come with
    plan: Plan,
    form: Backend | None,
    verification: Verification | None,
    tried: Tried | None,
    request: Request,
    console: Console,
) -> int:
    """Write and print the results; a plan whose replay fails is not written."""
    found = () if verification is None else verification.diagnostics
    if verification is not None and not verification.lawful:
        console.failure((*plan.diagnostics, *found))
        return _FAILED
    losses = () if form is None else form.losses(plan)
    console.warnings((*plan.diagnostics, *found, *losses))
    if request.explain is not None:
        from ..answers.explain import explain

        explanation = explain(plan, request.explain)
        if console.json:
            console.data({"path": explanation.path, "facts": [list(fact) for fact in explanation.facts]})
        else:
            console.text(visible(str(explanation), keep="\n"))
    if form is not None:
        write_result(plan, form, request, console)
    written_elsewhere = request.output is not None and not is_standard_output(request.output)
    if request.explain is None and (written_elsewhere or form is None):
        _print_report(plan, verification, tried, console)
    return _DONE


def _print_report(
    plan: Plan, verification: Verification | None, tried: Tried | None, console: Console
) -> None:
    if console.json:
        data = report_data(plan)
        if verification is not None:
            from .verifying import verification_data

            data["verification"] = verification_data(verification)
        if tried is not None:
            data["trial"] = tried.data()
        console.data(data)
    elif not console.quiet:
        bars = BLOCKS if can_show(console.out, "█▒░") else ASCII
        console.lines(report(plan, width=console.width, unfold=console.unfold, bars=bars))
        if verification is not None:
            from .verifying import verification_lines

            console.lines(verification_lines(verification))
        if tried is not None:
            console.lines(tried.lines())

"""The main command: an input of any kind becomes a plan, which is shown and written."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from ...backends import Backend, read_plan
from ...ir import Diagnostic, Diagnostics, Model, Plan, PlanError, verify
from ...ir.rules.usage import CANNOT_REPLAN
from ..driver.options import AUTOMATIC
from ..lines.files import read_overrides
from ..sources.input_kinds import Kind, kind_of
from .console import Console
from .report import ASCII, BLOCKS, report, report_data
from .terminal import can_show
from .text_files import output_form, write_result
from .values import Request

if TYPE_CHECKING:
    from torch import nn

    from ..tracing import Verification
    from .pass_list import Chosen

_DONE: Final = 0
_FAILED: Final = 1


@dataclass(frozen=True, slots=True)
class _Input:
    """What an input holds: a live model, or a plan in some stage."""

    plan: Plan | None = None
    model: nn.Module | None = None
    name: str | None = None
    example_inputs: Any = None
    no_split: tuple[str, ...] | None = None
    findings: tuple[Diagnostic, ...] = ()


def compile_input(request: Request, console: Console) -> int:
    """Compile, show and write; returns the exit code."""
    form = output_form(request)
    overrides = read_overrides(request.overrides)
    chosen = _chosen_passes(request, overrides, console)
    with contextlib.redirect_stdout(sys.stderr):  # what the user's file prints is no result
        source = _open(request)
        plan = _compile(source, request, overrides, chosen)
        verification = _verify(source, plan, request) if request.verify else None
    return _show(plan, form, verification, request, console)


def _chosen_passes(request: Request, overrides: tuple[Plan, ...], console: Console) -> Chosen | None:
    """Return what ``--passes`` and ``--print-after`` ask for; None, the rule, opens no pass yet."""
    if request.passes is None and not request.print_after:
        return None
    from .pass_list import read_chosen

    return read_chosen(request.passes, request.print_after, overrides, console)


def _open(request: Request) -> _Input:
    assert request.input is not None  # noqa: S101  # checked with the usage
    diagnostics = Diagnostics()
    kind = kind_of(request.input, diagnostics)
    diagnostics.raise_errors()
    match kind:
        case Kind.SCRIPT:
            from ..sources.script import read_script

            script = read_script(request.input, diagnostics)
            return _Input(
                model=script.model,
                name=script.name,
                example_inputs=script.example_inputs,
                no_split=script.no_split,
            )
        case Kind.CONFIG:
            from ..sources.config import build_from_config

            asked, unless = request.options, diagnostics if request.options.dtype is None else None
            model = build_from_config(
                request.input, trust_remote_code=asked.trust_remote_code, diagnostics=unless
            )
            return _Input(model=model, findings=tuple(diagnostics))
        case Kind.CHECKPOINT:
            from ..sources.checkpoint import read_checkpoint

            asked = request.options
            plan, _ = read_checkpoint(
                request.input, diagnostics, cache_tokens=asked.cache_tokens, batch=asked.batch or 1
            )
        case Kind.GGUF:
            from ..sources.gguf_file import read_gguf

            asked = request.options
            plan = read_gguf(
                request.input, diagnostics, cache_tokens=asked.cache_tokens, batch=asked.batch or 1
            )
        case _:
            plan = read_plan(request.input)
    diagnostics.raise_errors()
    return _Input(plan=replace(plan, diagnostics=(*plan.diagnostics, *diagnostics)))


def _compile(
    source: _Input,
    request: Request,
    overrides: tuple[Plan, ...],
    chosen: Chosen | None,
) -> Plan:
    if chosen is not None and chosen.passes is not None:
        return _run_alone(source, request, chosen)
    after = None if chosen is None else chosen.printed
    options = request.options
    if options.no_split is None and source.no_split is not None:
        options = replace(options, no_split=source.no_split)
    if source.model is not None:
        from ..driver.compile import compile_live

        live = compile_live(
            source.model,
            options,
            overrides,
            name=source.name,
            example_inputs=_inputs(source, request),
            after=after,
        )
        return replace(live, diagnostics=(*source.findings, *live.diagnostics))
    plan = source.plan
    assert plan is not None  # noqa: S101  # an input is a model or a plan
    finished = bool(plan.units) and all(unit.store is not None for unit in plan.units)
    if finished and not request.places:
        return _accounted(plan)
    if plan.tree is None:
        message = f"`{request.input}` has no module table, so nothing can be placed anew"
        help_ = "start from the model, or from a plan in the form `.msgpack`"
        raise PlanError([Diagnostic(CANNOT_REPLAN, message, help=help_)])
    if finished:
        plan = replace(plan, units=(), ledger=(), outcome=None, diagnostics=())
    from ..driver.compile import compile_lowered

    compiled = compile_lowered(plan, options, overrides, after=after)
    return replace(compiled, diagnostics=tuple(dict.fromkeys((*plan.diagnostics, *compiled.diagnostics))))


def _accounted(plan: Plan) -> Plan:
    """Return a finished plan with its ledger, which texts do not hold; it must fit its budgets."""
    if plan.ledger:
        return plan
    diagnostics = Diagnostics()
    if plan.tree is None:
        from ..lines.without_model import contradictions_of_text

        diagnostics.extend(contradictions_of_text(plan))
    else:
        from ..lines.binding import bind_plan

        plan = bind_plan(plan, plan.tree, diagnostics)
    diagnostics.raise_errors()
    if plan.tree is not None and plan.tree.nbytes is not None:
        from ..passes.account_memory import AccountMemory

        plan = AccountMemory().run(plan, diagnostics)
        diagnostics.extend(verify(plan))
    diagnostics.raise_errors()
    return replace(plan, diagnostics=tuple(dict.fromkeys((*plan.diagnostics, *diagnostics))))


def _run_alone(source: _Input, request: Request, chosen: Chosen) -> Plan:
    diagnostics = Diagnostics()
    plan = source.plan
    if plan is None:
        from ..sources.live import lower_model

        assert source.model is not None  # noqa: S101  # an input is a model or a plan
        tree = lower_model(source.model)
        plan = Plan(model=Model(source.name or type(source.model).__name__, tree.digest), tree=tree)
    if request.options.max_memory is not None:
        from ..machine.budgets import devices_from

        plan = replace(plan, devices=devices_from(request.options.max_memory, diagnostics))
    plan = chosen.run(plan, diagnostics)
    return replace(plan, diagnostics=tuple(dict.fromkeys((*plan.diagnostics, *diagnostics))))


def _inputs(source: _Input, request: Request) -> Any:  # noqa: ANN401  # whatever the user's forward takes
    """Return what the forward is traced with: what is written, then the model's own, then made ones."""
    if request.inputs is not None:
        return request.inputs
    sized = request.options.batch is not None or request.options.seq is not None
    own = source.example_inputs
    if own is not None and sized and not hasattr(source.model, "config"):
        from .verifying import unchangeable

        raise unchangeable(request.options, own)
    if own is not None and not sized:
        return own
    return AUTOMATIC if request.verify or sized else None


def _verify(source: _Input, plan: Plan, request: Request) -> Verification:
    from .verifying import no_forward, replay

    if source.model is None:
        raise no_forward(request.input or "")
    return replay(plan, source.model, _inputs(source, request), request.options)


def _show(
    plan: Plan,
    form: Backend | None,
    verification: Verification | None,
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
            console.text(str(explanation))
    if form is not None:
        write_result(plan, form, request, console)
    if request.explain is None and (request.output not in {None, "-"} or form is None):
        _print_report(plan, verification, console)
    return _DONE


def _print_report(plan: Plan, verification: Verification | None, console: Console) -> None:
    if console.json:
        data = report_data(plan)
        if verification is not None:
            from .verifying import as_data

            data["verification"] = as_data(verification)
        console.data(data)
    elif not console.quiet:
        bars = BLOCKS if can_show(console.out, "█▒░") else ASCII
        console.lines(report(plan, width=console.width, unfold=console.unfold, bars=bars))
        if verification is not None:
            from .verifying import summary

            console.lines(summary(verification))

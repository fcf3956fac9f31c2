"""Any input becomes a model or a plan: paths of every kind, live modules and plans, one way for all.

The command and Python open what they are given here, and compile it here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ...backends import read_plan
from ...ir import Diagnostic, Diagnostics, Model, Plan, PlanError, verify
from ...ir.rules.sources import UNKNOWN_INPUT
from ...ir.rules.usage import CANNOT_REPLAN
from ..lines.files import read_lines
from ..lines.option_lines import check_options
from ..lines.option_values import in_brief
from ..sources.input_kinds import InputKind, kind_of
from .effects import GGUF, Holding, check_effects, packed_in
from .facts import Known, built_when_asked, described_facts, known
from .folders import as_opened, plain_dtype
from .options import AUTOMATIC, Options
from .phases import busiest_first, busiest_of, unruled
from .remembered_models import remembered_model
from .workload import roomy

if TYPE_CHECKING:
    from torch import nn

    from ..tracing.inputs.example_inputs import Inputs
    from .on_one_device import After


@dataclass(frozen=True, slots=True)
class Opened:
    """What an input holds: a model, or a plan in some stage."""

    holds: Holding
    label: str
    """What messages call it."""
    plan: Plan | None = None
    subject: Known | None = None
    name: str | None = None
    example_inputs: Any = None
    no_split: tuple[str, ...] | None = None
    packed: str | None = None
    """The method its weights are quantised by."""
    findings: tuple[Diagnostic, ...] = ()

    def lowered(self) -> Plan:
        """Return the plan it holds, or that of its model without any rule."""
        if self.subject is None:
            assert self.plan is not None  # noqa: S101  # an input is a model or a plan
            return self.plan
        facts = self.subject.facts()
        return Plan(model=Model(self.name or facts.name, facts.tree.digest), tree=facts.tree)


def open_input(given: object, options: Options, overrides: tuple[Plan, ...] = ()) -> Opened:
    """Open a path (text or `Path`), a module or a plan; of ``overrides`` count the devices and the dtype.

    Raises:
        PlanError: there is no such thing, it cannot be read, or it is nothing that could be planned.

    """
    if isinstance(given, Plan):
        return Opened(Holding.PLAN, given.model.name or "the plan", plan=given, packed=packed_in(given))
    if isinstance(given, str | Path):
        try:
            return _open_path(given, as_opened(options, overrides))
        except ValueError as error:  # a path no file can have
            message = f"`{in_brief(str(given))}` is no path: {error}"
            raise PlanError([Diagnostic(UNKNOWN_INPUT, message, help="name a file or a folder")]) from None
    from ..sources.live import checked_module
    from ..sources.pipelines import joined

    model = checked_module(joined(given))
    return Opened(Holding.MODULE, type(model).__name__, subject=known(model))


def opened_plan(given: object, model: nn.Module, diagnostics: Diagnostics) -> Plan:
    """Return a plan, or the one a path leads to, bound to its model: a map or a text comes without modules.

    Raises:
        PlanError: it is neither, cannot be read, or breaks a law.

    """
    from ..lines.binding import bind_plan
    from ..sources.live import lower_model

    plan = _read_plan(given)
    return plan if plan.tree is not None else bind_plan(plan, lower_model(model), diagnostics)


def _read_plan(given: object) -> Plan:
    if isinstance(given, Plan):
        return given
    if isinstance(given, str | Path):
        try:
            return read_plan(given)
        except ValueError as error:  # a path no file can have
            message = f"`{in_brief(str(given))}` is no path: {error}"
            raise PlanError([Diagnostic(UNKNOWN_INPUT, message, help="name a file")]) from None
    message = f"a `{type(given).__name__}` is neither a plan nor a path to one"
    raise PlanError([Diagnostic(UNKNOWN_INPUT, message, help="give what `compile_model` returns")])


def _open_path(spec: str | Path, options: Options) -> Opened:
    diagnostics = Diagnostics()
    kind = kind_of(spec, diagnostics)
    diagnostics.raise_errors()
    label, packed = str(spec), None
    match kind:
        case InputKind.SCRIPT:
            from ..sources.script import read_script

            script = read_script(spec, diagnostics)
            return Opened(
                Holding.MODULE,
                label,
                subject=known(script.model),
                name=script.name,
                example_inputs=script.example_inputs,
                no_split=script.no_split,
                findings=tuple(diagnostics),
            )
        case InputKind.CONFIG:
            from ..sources.config import config_path, warn_of_quantised

            build, path = partial(built_from_config, spec, options), config_path(spec)
            dtype = plain_dtype(options)
            told = described_facts(path, dtype)
            subject = remembered_model(path, build, dtype) if told is None else built_when_asked(told, build)
            subject = replace(subject, dtype=dtype)
            if options.dtype is None or dtype is not None:
                warn_of_quantised(spec, diagnostics)
            return Opened(Holding.CONFIG, label, subject=subject, findings=tuple(diagnostics))
        case InputKind.PIPELINE | InputKind.PART:
            from ..sources.pipelines import build_part, build_parts

            folder = Path(spec)
            dtype, whole = plain_dtype(options), kind is InputKind.PIPELINE
            made = build_parts(folder, dtype) if whole else build_part(folder, dtype)
            subject = replace(known(made), dtype=dtype)
            return Opened(Holding.CONFIG, label, subject=subject, name=folder.resolve().name)
        case InputKind.CHECKPOINT:
            from .folders import open_checkpoint

            plan, packed = open_checkpoint(spec, options, diagnostics)
        case InputKind.GGUF:
            from ..sources.gguf_file import read_gguf

            file = read_gguf(spec, diagnostics)
            plan, packed = roomy(file, options, diagnostics), GGUF if file.packed else None
        case _:
            plan = read_lines(spec)
            packed = packed_in(plan)
    diagnostics.raise_errors()
    headers = kind in {InputKind.CHECKPOINT, InputKind.GGUF}
    plan = replace(plan, diagnostics=(*plan.diagnostics, *diagnostics))
    return Opened(Holding.HEADERS if headers else Holding.PLAN, label, plan=plan, packed=packed)


def built_from_config(spec: str | Path, options: Options) -> nn.Module:
    """Return the model that a folder's config.json describes, without weights."""
    from ..sources.config import build_from_config

    return build_from_config(spec, trust_remote_code=options.trust_remote_code, dtype=plain_dtype(options))


def compile_opened(
    opened: Opened,
    options: Options,
    overrides: tuple[Plan, ...] = (),
    *,
    example_inputs: Inputs = None,
    after: After | None = None,
    spelled: Callable[[str], str] = str,
    replayed: bool = False,
) -> Plan:
    """Return the placed plan of an input; a plan that is placed already is checked and comes back.

    ``example_inputs`` are those asked for; what a script has of its own counts where none are. A plan that
    is ``replayed`` afterwards uses what else is said of the forward.

    Raises:
        PlanError: an option would do nothing for this input, or the request cannot be met.

    """
    diagnostics = Diagnostics()
    given = example_inputs is not None
    holds = Holding.CONFIG if replayed and opened.holds is Holding.HEADERS else opened.holds
    lines = overrides if opened.plan is None else (opened.plan, *overrides)
    check_effects(
        options,
        holds,
        diagnostics,
        example_inputs=given,
        packed=opened.packed,
        lines=lines,
        spelled=spelled,
    )
    diagnostics.raise_errors()
    if options.no_split is None and opened.no_split is not None:
        options = replace(options, no_split=opened.no_split)
    subject = opened.subject
    if subject is not None:
        from .compile import compile_known

        inputs = traced_inputs(opened, options, example_inputs)

        def place(more: tuple[Plan, ...]) -> Plan:
            own = (*more, *overrides)
            return compile_known(subject, options, own, name=opened.name, example_inputs=inputs, after=after)

        live = busiest_first(subject.facts().busiest, options.devices, place)
        return replace(live, diagnostics=(*opened.findings, *live.diagnostics))
    assert opened.plan is not None  # noqa: S101  # an input is a model or a plan
    return _compile_plan(opened.plan, opened, options, overrides, after)


def _compile_plan(
    plan: Plan, opened: Opened, options: Options, overrides: tuple[Plan, ...], after: After | None
) -> Plan:
    fresh = opened.holds is Holding.HEADERS
    if comes_back(opened, options, overrides):
        return accounted(plan)
    if plan.tree is None:
        message = f"`{opened.label}` has no module table, so nothing can be placed anew"
        help_ = "start from the model, or from a plan in the form `.msgpack`"
        raise PlanError([Diagnostic(CANNOT_REPLAN, message, help=help_)])
    from .compile import compile_lowered

    found = plan.diagnostics if fresh or not _is_placed(plan) else ()
    busiest = busiest_of(plan)
    start = unruled(plan, busiest)

    def place(more: tuple[Plan, ...]) -> Plan:
        return compile_lowered(start, options, (*more, *overrides), after=after, fresh=fresh)

    compiled = busiest_first(busiest, options.devices or plan.devices or None, place)
    return replace(compiled, diagnostics=tuple(dict.fromkeys((*found, *compiled.diagnostics))))


def comes_back(opened: Opened, options: Options, overrides: tuple[Plan, ...] = ()) -> bool:
    """Say whether an input is a finished plan, of which nothing is asked but what it says."""
    plan = opened.plan
    return (
        opened.holds is Holding.PLAN
        and plan is not None
        and _is_placed(plan)
        and not (options.places or overrides)
    )


def _is_placed(plan: Plan) -> bool:
    return bool(plan.units) and all(unit.store is not None for unit in plan.units)


def traced_inputs(opened: Opened, options: Options, asked: Inputs) -> Inputs:
    """Return what a forward is traced with: what is asked for, then the model's own, then made ones."""
    if asked is not None:
        return asked
    own, subject = opened.example_inputs, opened.subject
    made = subject is not None and subject.facts().configured
    sized = options.batch is not None or options.seq is not None
    if own is not None and not made and (sized or options.rows is not None):
        raise _unchangeable(options, own)
    sized = sized or (made and options.used is not None)
    if own is not None and not sized:
        return cast("Inputs", own)
    return AUTOMATIC if sized else None


def _unchangeable(options: Options, inputs: Inputs) -> PlanError:
    """Return the error for sizes that cannot be applied, since the inputs are the model's own."""
    from ...ir.rules.usage import BAD_USAGE
    from ..tracing.inputs.input_words import resized_inputs

    written = resized_inputs(inputs, batch=options.rows or options.batch, seq=options.seq)
    given = "`--rows`" if options.rows else "`--batch`" if options.batch is not None else "`--seq`"
    message = f"{given} cannot change the `example_inputs` of the model's file"
    return PlanError([Diagnostic(BAD_USAGE, message, help=f"give them in that size: {written}")])


def accounted(plan: Plan) -> Plan:
    """Return a finished plan with its ledger, which texts do not hold; it must fit its budgets.

    Raises:
        PlanError: a line of it names nothing, contradicts another, or leaves a part without a place.

    """
    if plan.ledger:
        return plan
    diagnostics = Diagnostics(verify(plan))
    check_options(plan, diagnostics)
    diagnostics.raise_errors()
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

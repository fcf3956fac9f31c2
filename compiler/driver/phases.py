"""Pipelines planned and loaded: the part that is called most gets the accelerators first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ...ir import (
    CPU,
    DISK,
    WAYS,
    Atomic,
    Constraint,
    Demand,
    Diagnostic,
    Diagnostics,
    Model,
    Never,
    Phase,
    Plan,
    PlanError,
    Split,
    Together,
    Workload,
    device_type,
    is_accelerator,
    is_within,
)
from ...ir.names import BUSIEST
from ...ir.purposes import TOGETHER
from ...ir.rules.configs import CONFIG_FAILED
from ...ir.rules.tracing import BAD_EXAMPLE_INPUT
from ...ir.wording import first_line, in_words
from ..lines.option_values import in_brief
from ..placing.ledger import keep_books
from .workload import read_tokens, rows_of

if TYPE_CHECKING:
    from torch import nn

    from ...ir import Device
    from .facts import ModelFacts
    from .options import Options


_TOKENS: Final = 512
"""What text encoders read, where nobody says: no part of a pipeline reads more."""


def busiest_first(
    busiest: tuple[str, ...],
    devices: tuple[Device, ...] | None,
    place: Callable[[tuple[Plan, ...]], Plan],
) -> Plan:
    """Place a model; of a pipeline, the part that is called most stays on the accelerators if it fits there.

    The other parts are called once where it is called in every step, so what has to be brought is theirs.
    """
    slow = [CPU] if devices is None else [d.name for d in devices if device_type(d.name) in {CPU, DISK}]
    cards = devices is None or any(is_accelerator(device.name) for device in devices)
    if not busiest or not slow or not cards:
        return place(())
    rules = tuple(Never(name, device) for name in busiest for device in slow)
    try:
        plan = place((Plan(Model(""), constraints=rules),))
    except PlanError:  # it does not fit, or somebody wants it elsewhere: then as any model
        return place(())
    ours = (replace(rule, added=True) if rule in rules else rule for rule in plan.constraints)
    return replace(plan, constraints=tuple(ours))


def in_phases(plan: Plan, facts: ModelFacts) -> Plan:
    """Return the plan of a pipeline with its phases; its parts write no tokens, they are called."""
    used = plan.workload or Workload("forward", 1, 0, _TOKENS, added=True)
    return replace(plan, constraints=(*plan.constraints, *_phase_rules(facts)), workload=used)


def _phase_rules(facts: ModelFacts) -> Iterator[Phase]:
    """Yield when the parts of a pipeline are in use: those of every step together, others alone.

    The busiest come first: placing such a plan again knows them by that.
    """
    if facts.busiest:
        yield Phase(facts.busiest, added=True)
    yield from (Phase((name,), added=True) for name in facts.parts if name not in facts.busiest)


def busiest_of(plan: Plan) -> tuple[str, ...]:
    """Return the parts that a compile found to be called most; none where there are none."""
    first = next((rule for rule in plan.constraints if isinstance(rule, Phase) and rule.added), None)
    names = () if first is None else first.patterns
    return names if all(name in BUSIEST for name in names) else ()


def unruled(plan: Plan, busiest: tuple[str, ...]) -> Plan:
    """Return a plan without the rules that an earlier compile added for its busiest parts."""
    rules = (rule for rule in plan.constraints if not _keeps(rule, busiest))
    return replace(plan, constraints=tuple(rules))


def _keeps(rule: Constraint, busiest: tuple[str, ...]) -> bool:
    return isinstance(rule, Never) and rule.added and rule.pattern in busiest and rule.device not in WAYS


def with_part_traces(
    plan: Plan, parts: nn.Module, inputs: object, options: Options, diagnostics: Diagnostics
) -> Plan:
    """Return the plan of a pipeline with what each part needs while it is in use, and what must stay whole.

    ``inputs`` are those of the parts by name; parts without any are traced where a transformers
    configuration says what to put in.
    """
    from ..tracing import Use, traced_plan

    given: Mapping[str, Any] = inputs if isinstance(inputs, Mapping) else {}
    children = dict(parts.named_children())
    diagnostics.extend(_unknown_part(name, children) for name in given if name not in children)
    for name, part in children.items():
        own = given.get(name)
        if own is None and not hasattr(getattr(part, "config", None), "model_type"):
            continue
        found, _ = traced_plan(
            Plan(Model(name)),
            part,
            own,
            diagnostics,
            batch=rows_of(options),
            seq=read_tokens(options),
            dtype=options.dtype,
            use=Use("forward"),
        )
        plan = replace(
            plan,
            constraints=(*plan.constraints, *(_below(name, rule) for rule in found.constraints)),
            demands=(*plan.demands, *(replace(each, path=_join(name, each.path)) for each in _apart(found))),
            work=(*plan.work, *(replace(each, path=_join(name, each.path)) for each in found.work)),
        )
    return plan


def _apart(plan: Plan) -> Iterator[Demand]:
    """Yield what a part needs wherever its own parts are; other parts run beside it."""
    return (each for each in plan.demands if each.purpose not in TOGETHER)


def _unknown_part(name: object, parts: Mapping[str, object]) -> Diagnostic:
    message = f"`example_inputs` are given for `{in_brief(str(name))}`, which is no part of the pipeline"
    help_ = f"give them by the names of its parts: {in_words(parts, 8)}"
    return Diagnostic(BAD_EXAMPLE_INPUT, message, help=help_)


def _below(name: str, rule: Constraint) -> Constraint:
    """Return a rule of a part as one of the pipeline."""
    match rule:
        case Atomic(target):
            return rule if rule.by_class else replace(rule, target=_join(name, target))
        case Split(pattern) | Never(pattern):
            return replace(rule, pattern=_join(name, pattern))
        case Together(patterns) | Phase(patterns):
            return replace(rule, patterns=tuple(_join(name, pattern) for pattern in patterns))


def _join(name: str, pattern: str) -> str:
    return f"{name}.{pattern}" if pattern else name


def part_of(plan: Plan, name: str) -> Plan:
    """Return the plan of one part of a pipeline, its paths as the part itself has them.

    Its ledger is that of the part's own phase: what is read ahead may take what is free then.
    """
    own = [unit for unit in plan.units if is_within(unit.path, name)]
    around = [unit for unit in plan.units if not unit.path]
    units = own if any(unit.path == name for unit in own) else [*around, *own]
    units = [replace(unit, path=unit.path.removeprefix(name).removeprefix(".")) for unit in units]
    tree = plan.tree
    ledger = plan.ledger if tree is None or tree.nbytes is None else keep_books(plan, tree, name).ledger
    only = (Phase(("",)),)
    return Plan(Model(name), plan.devices, plan.options, constraints=only, units=tuple(units), ledger=ledger)


def load_parts(plan: Plan, parts: Mapping[str, nn.Module], folder: Path | None, **loading: Any) -> None:  # noqa: ANN401
    """Load every part by its lines of the plan, from its own folder; None moves the values they have."""
    from ..loading import load_model

    for name, part in parts.items():
        load_model(part_of(plan, name), part, None if folder is None else folder / name, **loading)


def load_pipeline(
    folder: Path,
    compiled: Callable[[Path], Plan],
    *,
    dtype: str | None = None,
    attention: str | None = None,
    **loading: Any,  # noqa: ANN401  # what `load_model` takes
) -> tuple[Any, Plan]:
    """Load a pipeline's folder by the plan that ``compiled`` returns; diffusers loads what is no model.

    Raises:
        PlanError: a part cannot be built or loaded, or diffusers cannot put the pipeline together.

    """
    from ..sources.pipelines import absent_parts, build_part, part_folders

    plan = compiled(folder)
    parts = {name: build_part(inner, dtype, attention) for name, inner in part_folders(folder)}
    load_parts(plan, parts, folder, **loading)
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    kind: Any = DiffusionPipeline
    absent = {name: None for name in absent_parts(folder) if name not in parts}
    try:
        return kind.from_pretrained(folder, local_files_only=True, **absent, **parts), plan
    except Exception as error:
        message = f"diffusers cannot put the pipeline of `{folder}` together"
        raise PlanError([Diagnostic(CONFIG_FAILED, message, notes=(first_line(error, 300),))]) from error

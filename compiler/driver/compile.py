"""From an input to a finished plan: lower it, take off what an earlier compile added, run the passes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from ...ir import VISITING, Atomic, Diagnostics, Model, Never, Plan, PlanError, Severity, join_path
from ..lines.references import undeclared
from ..machine.budgets import devices_from
from ..machine.machine_file import main_dtype, with_rates
from .again import are_sized, as_written, exchanged, with_classes, with_margin, with_reserves
from .facts import Known, ModelFacts, known
from .folders import sized_in
from .on_one_device import After, run_all, run_on_one
from .options import AUTOMATIC, Options, settled
from .phases import in_phases, with_part_traces
from .strategies import passes_for
from .workload import read_tokens, rows_of, use_of, with_told_cache, with_usual, without_usual

if TYPE_CHECKING:
    from torch import nn

    from ..search.flows import Flow
    from ..tracing import Trace
    from ..tracing.inputs.example_inputs import Inputs


_LARGE: Final = 20_000
"""Modules of a model whose forward is no longer run unasked."""
_FLOWING: Final = "throughput"
"""The objective that counts what devices hand each other."""
_ROUNDS: Final = 4
"""How often a plan is made again because its replay meets."""


def compile_live(
    model: nn.Module,
    options: Options,
    overrides: tuple[Plan, ...] = (),
    *,
    name: str | None = None,
    example_inputs: Inputs = None,
    after: After | None = None,
) -> Plan:
    """Compile a live module; see `compile_plan.compiler.compile_model`."""
    return compile_known(
        known(model), options, overrides, name=name, example_inputs=example_inputs, after=after
    )


def compile_known(
    subject: Known,
    options: Options,
    overrides: tuple[Plan, ...] = (),
    *,
    name: str | None = None,
    example_inputs: Inputs = None,
    after: After | None = None,
) -> Plan:
    """Compile a model by its facts; the model itself is asked for only where its forward must be run."""
    diagnostics, facts = Diagnostics(), subject.facts()
    tree = facts.tree
    options = settled(options, overrides, diagnostics)
    diagnostics.raise_errors()
    if options.no_split is not None:
        absent = facts.declared - set(tree.classes)
        options = replace(options, no_split=tuple(each for each in options.no_split if each not in absent))
    lowered = Plan(model=Model(name or facts.name, tree.digest), tree=tree, workload=options.used)
    if subject.dtype is not None and subject.dtype == options.dtype:
        lowered = sized_in(lowered, subject.dtype, diagnostics)
    diagnostics.extend(facts.findings)
    lowered, trace = _traced(lowered, subject, options, example_inputs, diagnostics)
    lowered = with_classes(lowered, options.no_split, fresh=False)
    if facts.parts:
        lowered = in_phases(lowered, facts)
    if options.strategy != "accelerate":
        whole = [Atomic(kind, by_class=True, added=True) for kind in facts.whole]
        apart = _never_apart(lowered, facts.whole)
        whole += [Atomic(path, added=True) for path in facts.called_as_one]
        lowered = replace(lowered, constraints=tuple(dict.fromkeys((*lowered.constraints, *whole, *apart))))

    flows = _flows(lowered, trace, options)

    def place(rules: Plan) -> Plan:
        told = Diagnostics(diagnostics)
        return compile_lowered(rules, options, overrides, after=after, diagnostics=told, flows=flows)

    return _replayed(lowered, None if options.strategy == "accelerate" else trace, place)


def _never_apart(plan: Plan, classes: Iterable[str]) -> Iterator[Never]:
    """Yield rules that keep the parts of such modules with them: they read their children's weights."""
    tree, whole = plan.tree, frozenset(classes)
    for module in range(0 if tree is None else len(tree)):
        if tree is not None and tree.classes[module] in whole and tree.children(module):
            yield Never(join_path(tree.paths[module], "**"), VISITING, added=True)


def _traced(
    lowered: Plan, subject: Known, options: Options, inputs: Inputs, diagnostics: Diagnostics
) -> tuple[Plan, Trace | None]:
    """Return the plan with the model's own classes whole, or with what its forward shows in their place.

    Classes that a person names stand in place of the model's own, and beside what the forward shows.
    """
    from ..sources.config_work import config_work

    facts = subject.facts()
    listed = set(facts.listed) & set(facts.tree.classes) if options.no_split is None else ()
    own = tuple(Atomic(kind, by_class=True, added=True) for kind in sorted(listed))
    plan = replace(lowered, constraints=own)
    if facts.parts:
        if inputs is None and not _wants_trace(options, facts):
            return plan, None
        return with_part_traces(plan, subject.model(), inputs, options, diagnostics), None
    if inputs is None and not _wants_trace(options, facts):
        told = replace(plan, work=config_work(facts.config, facts.tree))
        return _with_cuts(with_usual(told, facts.config, options, diagnostics), subject, options)
    from ..tracing import traced_plan

    made = inputs is None or (isinstance(inputs, str) and inputs == AUTOMATIC)
    found = Diagnostics()
    plan, trace = traced_plan(
        plan,
        subject.model(),
        None if made else inputs,
        found,
        batch=rows_of(options),
        seq=read_tokens(options),
        dtype=options.dtype,
        use=use_of(options, made=made),
    )
    return with_told_cache(plan, facts.config, options, found, diagnostics), trace


def _with_cuts(plan: Plan, subject: Known, options: Options) -> tuple[Plan, Trace | None]:
    """Return the plan with what a forward shows must stay whole, where no list says it and it is cheap.

    A transformers config says what to put in. accelerate's strategy cuts as accelerate does.
    """
    listed = plan.constraints if options.no_split is None else options.no_split
    cheap = subject.facts().described and len(plan.tree or ()) < _LARGE
    flowing = options.objective == _FLOWING
    if (listed and not flowing) or not cheap or options.strategy == "accelerate":
        return plan, None
    from ..tracing import quiet_trace, with_rules

    return (plan, quiet_trace(subject.model())) if listed else with_rules(plan, subject.model())


def _flows(plan: Plan, trace: Trace | None, options: Options) -> tuple[Flow, ...]:
    """Return what the modules hand each other, where the objective counts it and a trace tells it."""
    if trace is None or options.objective != _FLOWING:
        return ()
    from ..tracing import flows_of

    return flows_of(plan, trace)


def _replayed(lowered: Plan, trace: Trace | None, place: Callable[[Plan], Plan]) -> Plan:
    """Plan, and plan again with corrected rules while the replay of the forward meets.

    Raises:
        PlanError: no correction helps: what a person wrote cannot run.

    """
    plan = place(lowered)
    if trace is None:
        return plan
    from ..tracing import corrections, verify_trace

    for _ in range(_ROUNDS):
        seen = verify_trace(plan, trace)
        if seen.lawful:
            return with_hops(plan, seen.hops)
        found = (rule for rule in corrections(trace, plan) if rule not in lowered.constraints)
        rules = tuple(replace(rule, added=True) for rule in found)
        if not rules:
            break
        lowered = replace(lowered, constraints=(*lowered.constraints, *rules))
        plan = place(lowered)
    seen = verify_trace(plan, trace)
    if not seen.lawful:
        raise PlanError([found for found in seen.diagnostics if found.severity == Severity.ERROR])
    return with_hops(plan, seen.hops)


def with_hops(plan: Plan, hops: int) -> Plan:
    """Return a plan that states the changes of device its replay saw; the search goes by the tree's order."""
    return plan if plan.outcome is None else replace(plan, outcome=replace(plan.outcome, hops=hops))


def _wants_trace(options: Options, facts: ModelFacts) -> bool:
    """Say whether an option can only be met by running the forward on the meta device.

    A workload of generation is about seconds too: of a model that no inputs can be made for it is no more.
    """
    if options.used is not None and (options.used.kind != "generate" or facts.config):
        return options.strategy != "accelerate"
    return options.batch is not None or options.seq is not None or options.cache_tokens is not None


def compile_lowered(
    lowered: Plan,
    options: Options,
    overrides: tuple[Plan, ...] = (),
    *,
    after: After | None = None,
    diagnostics: Diagnostics | None = None,
    fresh: bool = False,
    flows: tuple[Flow, ...] = (),
) -> Plan:
    """Run the passes of the chosen strategy over a plan with a module tree.

    ``fresh`` is one that was just lowered; any other is placed again from what people wrote in it, and its
    options stay where they are not given again. ``flows`` are what its modules hand each other, if known.
    """
    diagnostics = Diagnostics() if diagnostics is None else diagnostics
    lowered = without_usual(lowered, overrides, options)
    asked, options = options, settled(options, (lowered, *overrides), diagnostics)
    devices = asked.devices
    if devices is None and not lowered.devices:
        devices = devices_from(None, diagnostics)
    diagnostics.raise_errors()
    sized = are_sized(lowered, options)
    base = with_classes(as_written(lowered, asked, options), asked.no_split, fresh=fresh)
    listed = base.devices if devices is None else exchanged(devices, base.devices)
    dtype = options.dtype or (None if lowered.tree is None else main_dtype(lowered.tree))
    listed = with_rates(listed, dtype, diagnostics)
    base = replace(
        base,
        devices=with_margin(listed, () if asked.gives("margin") else base.devices, options.margin),
        options=options.recorded(),
    )
    start = with_reserves(base, asked.reserves)
    declared = (*start.devices, *(device for override in overrides for device in override.devices))
    diagnostics.extend(undeclared(replace(start, devices=declared)))
    diagnostics.raise_errors()
    if asked.used is not None:
        start = replace(start, workload=asked.used)  # their lines are in it already
        overrides = tuple(replace(override, workload=None) for override in overrides)
    passes = passes_for(_for_work(options, start, overrides), overrides, start.units, flows, sized=sized)
    said = options.kv_cache is not None or any(override.demands for override in overrides)
    run = run_all if said or options.strategy == "accelerate" else run_on_one
    plan = run(replace(start, units=()), passes, diagnostics, after)
    diagnostics.raise_errors()
    return replace(plan, diagnostics=tuple(diagnostics))


def _for_work(options: Options, start: Plan, overrides: tuple[Plan, ...]) -> Options:
    """A backward pass cannot reach weights that were only there for the forward: training streams nothing."""
    said = [each.workload for each in (start, *overrides) if each.workload is not None]
    trains = bool(said) and said[-1].kind == "train"
    return replace(options, offload="compute") if trains and options.offload == "auto" else options

"""From an input to a finished plan: lower it, take off what an earlier compile added, run the passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from ...ir import Atomic, Diagnostics, Model, Plan
from ..lines.references import undeclared
from ..machine.budgets import devices_from
from ..machine.machine_file import main_dtype, with_rates
from ..passes.pipeline import Pass, run_passes
from .again import as_written, exchanged, with_classes, with_margin, with_reserves
from .options import AUTOMATIC, Options, settled
from .strategies import passes_for

if TYPE_CHECKING:
    from torch import nn

    from ..tracing.inputs.example_inputs import Inputs

After: TypeAlias = Callable[[Pass, Plan], None]


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
    from ..running.kinds import whole_classes
    from ..sources.kept_dtypes import loaded_tree
    from ..sources.live import declared_classes, untied

    diagnostics = Diagnostics()
    tree = loaded_tree(model)
    options = settled(options, overrides, diagnostics)
    diagnostics.raise_errors()
    if options.no_split is not None:
        absent = declared_classes(model) - set(tree.classes)
        options = replace(options, no_split=tuple(each for each in options.no_split if each not in absent))
    lowered = Plan(model=Model(name or type(model).__name__, tree.digest), tree=tree)
    warning = untied(model, tree)
    diagnostics.extend(() if warning is None else (warning,))
    lowered = _traced(lowered, model, options, example_inputs, diagnostics)
    lowered = with_classes(lowered, options.no_split, fresh=False)
    if options.strategy != "accelerate":
        whole = (Atomic(kind, by_class=True, added=True) for kind in whole_classes(model))
        lowered = replace(lowered, constraints=tuple(dict.fromkeys((*lowered.constraints, *whole))))
    return compile_lowered(lowered, options, overrides, after=after, diagnostics=diagnostics)


def _traced(
    lowered: Plan, model: nn.Module, options: Options, inputs: Inputs, diagnostics: Diagnostics
) -> Plan:
    """Return the plan with the model's own classes whole, or with what its forward shows in their place.

    Classes that a person names stand in place of the model's own, and beside what the forward shows.
    """
    from ..sources.live import no_split_classes

    assert lowered.tree is not None  # noqa: S101  # a lowered plan has one
    listed = set(no_split_classes(model)) & set(lowered.tree.classes) if options.no_split is None else ()
    own = tuple(Atomic(kind, by_class=True, added=True) for kind in sorted(listed))
    plan = replace(lowered, constraints=own)
    if inputs is None and not _wants_trace(options):
        return plan
    from ..tracing import with_trace

    return with_trace(
        plan,
        model,
        None if isinstance(inputs, str) and inputs == AUTOMATIC else inputs,
        diagnostics,
        batch=options.batch or 1,
        seq=options.seq,
        cache_tokens=options.cache_tokens,
        dtype=options.dtype,
    )


def _wants_trace(options: Options) -> bool:
    """Say whether an option can only be met by running the forward on the meta device."""
    return options.batch is not None or options.seq is not None or options.cache_tokens is not None


def compile_lowered(
    lowered: Plan,
    options: Options,
    overrides: tuple[Plan, ...] = (),
    *,
    after: After | None = None,
    diagnostics: Diagnostics | None = None,
    fresh: bool = False,
) -> Plan:
    """Run the passes of the chosen strategy over a plan with a module tree.

    ``fresh`` is one that was just lowered; any other is placed again from what people wrote in it, and its
    options stay where they are not given again.
    """
    diagnostics = Diagnostics() if diagnostics is None else diagnostics
    asked, options = options, settled(options, (lowered, *overrides), diagnostics)
    devices = asked.devices
    if devices is None and not lowered.devices:
        devices = devices_from(None, diagnostics)
    diagnostics.raise_errors()
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
    passes = passes_for(options, overrides, start.units)
    plan = run_passes(replace(start, units=()), passes, diagnostics, *(() if after is None else (after,)))
    diagnostics.raise_errors()
    return replace(plan, diagnostics=tuple(diagnostics))

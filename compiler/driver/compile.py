"""From an input to a finished plan: read the source, lower it, run the passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from ...ir import Atomic, Diagnostics, Model, Plan, is_accelerator
from ..machine.budgets import devices_from
from ..passes.pipeline import Pass, run_passes
from .options import AUTOMATIC, Options
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
    from ..sources.live import declared_classes, lower_model, no_split_classes, untied

    tree = lower_model(model)
    present = set(tree.classes)
    if options.no_split is not None:
        absent = declared_classes(model) - present
        options = replace(options, no_split=tuple(each for each in options.no_split if each not in absent))
    lowered = Plan(
        model=Model(name or type(model).__name__, tree.digest),
        constraints=tuple(Atomic(kind, by_class=True) for kind in no_split_classes(model) if kind in present),
        tree=tree,
    )
    warning = untied(model, tree)
    diagnostics = Diagnostics(() if warning is None else (warning,))
    if example_inputs is not None or _wants_trace(options):
        from ..tracing import with_trace

        lowered = with_trace(
            lowered,
            model,
            None if isinstance(example_inputs, str) and example_inputs == AUTOMATIC else example_inputs,
            diagnostics,
            batch=options.batch or 1,
            seq=options.seq,
            cache_tokens=options.cache_tokens,
            dtype=options.dtype,
        )
    whole = () if options.strategy == "accelerate" else whole_classes(model)
    return compile_lowered(lowered, options, overrides, after=after, diagnostics=diagnostics, whole=whole)


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
    whole: tuple[str, ...] = (),
) -> Plan:
    """Run the passes of the chosen strategy over a lowered plan (one with a module tree).

    ``whole`` are classes never split whatever the options say, because it could not run.
    """
    diagnostics = Diagnostics() if diagnostics is None else diagnostics
    devices = lowered.devices
    if options.max_memory is not None or not devices:
        devices = devices_from(options.max_memory, diagnostics)
    diagnostics.raise_errors()
    if options.no_split is not None:
        named = tuple(Atomic(kind, by_class=True) for kind in options.no_split)
        kept = tuple(c for c in lowered.constraints if not (isinstance(c, Atomic) and c.by_class))
        lowered = replace(lowered, constraints=kept)
        overrides = (Plan(model=lowered.model, constraints=named), *overrides) if named else overrides
    rules = dict.fromkeys((*lowered.constraints, *(Atomic(kind, by_class=True) for kind in whole)))
    start = replace(
        lowered,
        constraints=tuple(rules),
        devices=tuple(replace(d, margin=options.margin) if is_accelerator(d.name) else d for d in devices),
        options=options.recorded(),
        reserves=lowered.reserves + options.reserves,
    )
    passes = passes_for(options, overrides)
    plan = run_passes(start, passes, diagnostics, *(() if after is None else (after,)))
    diagnostics.raise_errors()
    return replace(plan, diagnostics=tuple(diagnostics))

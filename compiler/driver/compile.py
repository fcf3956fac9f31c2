"""From an input to a finished plan: lower it, take off what an earlier compile added, run the passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from ...ir import Atomic, Diagnostics, Model, Plan
from ..machine.budgets import devices_from
from ..passes.pipeline import Pass, run_passes
from .again import as_written, exchanged, with_classes, with_margin, with_reserves
from .effects import refuse_without_effect
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
    from ..sources.live import declared_classes, lower_model, untied

    diagnostics = Diagnostics()
    tree = lower_model(model)
    settled_ = settled(options, overrides, diagnostics)
    diagnostics.raise_errors()
    if settled_.no_split is not None:
        absent = declared_classes(model) - set(tree.classes)
        known = tuple(each for each in settled_.no_split if each not in absent)
        settled_ = replace(settled_, no_split=known)
    lowered = Plan(model=Model(name or type(model).__name__, tree.digest), tree=tree)
    warning = untied(model, tree)
    diagnostics.extend(() if warning is None else (warning,))
    lowered = _traced(_with_own_classes(lowered, model), model, settled_, example_inputs, diagnostics)
    if settled_.strategy != "accelerate":
        whole = tuple(Atomic(kind, by_class=True, added=True) for kind in whole_classes(model))
        lowered = replace(lowered, constraints=tuple(dict.fromkeys((*lowered.constraints, *whole))))
    return compile_lowered(lowered, settled_, overrides, after=after, diagnostics=diagnostics, fresh=True)

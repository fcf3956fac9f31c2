"""Puts what a trace teaches into a plan that is not placed yet: cuts, demands, work and the order."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ...ir import Atomic, Constraint, Diagnostics, Plan
from .cuts import Cuts
from .demands import demands
from .moments import try_moments
from .order import in_execution_order
from .splits import splits
from .stays import never_streamed
from .visitable import visit_rules
from .work import work

if TYPE_CHECKING:
    from torch import nn

    from .inputs.example_inputs import Inputs


def with_trace(
    plan: Plan,
    model: nn.Module,
    inputs: Inputs,
    diagnostics: Diagnostics,
    *,
    batch: int = 1,
    seq: int | None = None,
    cache_tokens: int | None = None,
    dtype: str | None = None,
    generate: bool = False,
) -> Plan:
    """Return the plan with safe cuts, real demands and its modules in execution order.

    Without a trace it comes back as it was, with a finding. The classes the model itself declares whole
    are replaced by what its dataflow shows, except where the forward did not go. ``cache_tokens`` is the
    length of the cache when the last token is written; ``generate`` keeps the last position's scores only.
    """
    moments = try_moments(
        model, inputs, diagnostics, batch=batch, seq=seq, dtype=dtype, generate=generate, total=cache_tokens
    )
    if moments is None:
        return plan
    trace = moments.main
    own = [rule for rule in plan.constraints if isinstance(rule, Atomic) and rule.by_class]
    cuts = Cuts(trace, known=frozenset(rule.target for rule in own)).settle()
    kept = tuple(rule for rule in plan.constraints if rule not in own)
    rules: tuple[Constraint, ...] = (
        *cuts.rules(),
        *splits(trace, cuts),
        *never_streamed(trace, cuts),
        *visit_rules(trace, cuts),
    )
    return replace(
        plan,
        constraints=(*kept, *(replace(rule, added=True) for rule in rules)),
        demands=plan.demands + tuple(replace(each, added=True) for each in demands(moments, cuts)),
        work=plan.work + tuple(work(trace, cuts)),
        tree=None if plan.tree is None else in_execution_order(plan.tree, trace),
    )

"""Puts what a trace teaches into a plan that is not placed yet: cuts, demands, work and the order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from ...ir import Atomic, Constraint, Demand, Diagnostics, Plan
from ...ir.purposes import ALLOCATOR
from .cuts import Cuts
from .demands import demands
from .forward import try_trace
from .graph import flows
from .moments import Moments, Use, try_moments
from .order import in_execution_order
from .segments import held_beyond
from .splits import splits
from .stays import never_streamed
from .visitable import visit_rules
from .work import work

if TYPE_CHECKING:
    from torch import nn

    from ..search.flows import Flow
    from .inputs.example_inputs import Inputs
    from .trace import Trace

_SHORT: Final = 16
"""Tokens of a forward that is only run to see its dataflow."""


def traced_plan(
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
    use: Use | None = None,
) -> tuple[Plan, Trace | None]:
    """Return the plan with safe cuts, real demands and its modules in execution order, and the trace.

    Without a trace it comes back as it was, with a finding. The classes the model itself declares whole
    are replaced by what its dataflow shows, except where the forward did not go. ``use`` is what the model
    is used for; without it generation, ``cache_tokens`` the length of the cache when the last token is
    written, ``generate`` whether only the last position's scores are asked for.
    """
    use = Use(total=cache_tokens, last=generate) if use is None else use
    moments = try_moments(model, inputs, diagnostics, batch=batch, seq=seq, dtype=dtype, use=use)
    if moments is None:
        return plan, None
    trace = moments.main
    cuts = _cuts(plan, trace)
    found = [*demands(moments, cuts), *_scattered(plan, moments)]
    return replace(
        _with_rules(plan, trace, cuts),
        demands=plan.demands + tuple(replace(each, added=True) for each in found),
        work=plan.work + tuple(work(moments.whole or trace, cuts, moments.positions)),
        tree=None if plan.tree is None else in_execution_order(plan.tree, trace),
    ), trace


def _scattered(plan: Plan, moments: Moments) -> Iterator[Demand]:
    """Yield what an accelerator's allocator holds beyond what is alive, where a workload was asked for."""
    if plan.workload is not None:
        peaks = None if moments.training is None else moments.training.peaks
        held = held_beyond(moments.traces, () if peaks is None else peaks.events)
        yield Demand(held, "", ALLOCATOR)


def with_rules(plan: Plan, model: nn.Module) -> tuple[Plan, Trace | None]:
    """Return the plan with what a trace says must not be cut, and the trace; nothing is measured.

    Nobody asked for this trace: that there is none is no finding.
    """
    trace = quiet_trace(model)
    return (plan, None) if trace is None else (_with_rules(plan, trace, _cuts(plan, trace)), trace)


def quiet_trace(model: nn.Module) -> Trace | None:
    """Return a short forward of a model whose configuration says what to put in; None if it cannot run."""
    return try_trace(model, None, Diagnostics(), seq=_SHORT)


def flows_of(plan: Plan, trace: Trace) -> tuple[Flow, ...]:
    """Return what the pieces that a plan may place hand each other."""
    return tuple(flows(trace, _cuts(plan, trace)))


def _cuts(plan: Plan, trace: Trace) -> Cuts:
    own = (rule for rule in plan.constraints if isinstance(rule, Atomic) and rule.by_class)
    return Cuts(trace, known=frozenset(rule.target for rule in own)).settle()


def _with_rules(plan: Plan, trace: Trace, cuts: Cuts) -> Plan:
    kept = tuple(rule for rule in plan.constraints if not (isinstance(rule, Atomic) and rule.by_class))
    rules: tuple[Constraint, ...] = (
        *cuts.rules(),
        *splits(trace, cuts),
        *never_streamed(trace, cuts),
        *visit_rules(trace, cuts),
    )
    return replace(plan, constraints=(*kept, *(replace(rule, added=True) for rule in rules)))

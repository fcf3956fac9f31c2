"""What a plan asks a card's allocator for, in order.

Inputs, weights as they are loaded, the streaming buffer; then a forward and every token written after it,
each traced in its own sizes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from compile_plan.compiler.tracing.forward import try_run
from compile_plan.compiler.tracing.trace import Origin, Trace
from compile_plan.compiler.tracing.writing import _again, _next, begun, written_name
from compile_plan.ir import Diagnostics, Plan, unit_of_tensors

if TYPE_CHECKING:
    from card_allocator import Allocator, Part

HELD = frozenset({Origin.OP, Origin.INPUT, Origin.STATE})


def traced(model, rows, prompt, tokens=0, beside=None) -> list[Trace]:
    """Trace a prompt, and so many tokens written one after another; ``beside`` makes what goes along."""
    last = {"logits_to_keep": 1} if tokens else {}
    ran = try_run(model, None, Diagnostics(), batch=rows, seq=prompt, extra=last, beside=beside)
    ran = begun(ran) if tokens else ran
    found = [ran.trace]
    for _ in range(tokens):
        ran = _again(ran, _next(ran, written_name(ran), 1))
        found.append(ran.trace)
    return found


def played(plan: Plan, traces: list[Trace], allocator: Allocator) -> None:
    """Ask for all that a plan with one card takes there; raises `OutOfMemory`."""
    inputs = [each.nbytes for each in traces[0].values if each.origin is Origin.INPUT]
    given = [allocator.malloc(nbytes) for nbytes in inputs]
    owner, seen = unit_of_tensors(plan.tree, plan.units), set()
    for tensor, storage in enumerate(plan.tree.storages):
        if storage not in seen and plan.units[owner[tensor]].store == plan.ledger[0].device:
            allocator.malloc(plan.tree.nbytes[tensor])
        seen.add(storage)
    if plan.ledger[0].streaming:
        allocator.malloc(plan.ledger[0].streaming)
    kept: list[Part] = []
    for trace in traces:
        kept = forward(trace, kept, given, allocator)
        given = []


def forward(trace: Trace, kept: list[Part], given: list[Part], allocator: Allocator) -> list[Part]:
    """Play one call that goes on from what the last one kept; returns what it keeps itself."""
    events, end = list[tuple[int, bool, int]](), len(trace.steps)
    there = dict(zip((r for r in trace.lives if trace.values[r].origin is Origin.STATE), kept, strict=True))
    there |= dict(
        zip((r for r in trace.lives if trace.values[r].origin is Origin.INPUT), given, strict=False)
    )
    for root, (born, died) in trace.lives.items():
        value = trace.values[root]
        if value.nbytes and (value.origin in HELD or value.is_made_of_numbers):
            events += [(max(born, 0), True, root)] if root not in there else []
            events += [(died + 1, False, root)] if died < end else []
    for _, begins, root in sorted(events):
        if begins:
            there[root] = allocator.malloc(trace.values[root].nbytes)
        else:
            allocator.free(there.pop(root))
    cache = list(dict.fromkeys(trace.roots[value] for value in trace.cache))
    for root in [root for root in there if root not in cache]:
        if there[root] not in given:
            allocator.free(there[root])
    return [there[root] for root in cache]

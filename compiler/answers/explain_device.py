"""``--explain DEVICE``: what a device holds, which moment set its peak, and what is largest on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from ...backends.predictions import counted_workload, workload_text
from ...ir import Account, Plan, human_size, unit_of_tensors
from ...ir.purposes import (
    ACTIVATIONS,
    ALLOCATOR,
    LEDGER_LINES,
    LOGITS,
    ON_HOST,
    TOGETHER,
    WRITING,
    WRITING_HOST,
)
from ..placing.ledger import peak_demand
from ..placing.tiers import pinned_bytes

_LARGEST: Final = 3
_HELD: Final = (
    "what torch's allocator reserves beyond what is alive, found by playing what is asked of it by its rules"
)
_MOMENTS: Final = {
    ACTIVATIONS: "while it runs",
    LOGITS: "while its scores are made",
    ON_HOST: "while it runs on the host, where its kernel is not fused",
    **dict.fromkeys((WRITING, WRITING_HOST), "while the last token is written"),
}


def device_facts(plan: Plan, name: str) -> Iterator[tuple[str, str]]:
    """Yield what is on a device of the plan, by label."""
    device = next(each for each in plan.devices if each.name == name)
    account = next((each for each in plan.ledger if each.device == name), None)
    if account is None:
        yield "holds", "the plan has no ledger to tell"
        return
    limit = "" if device.memory is None else f" of {human_size(device.memory)}"
    yield "holds", f"{human_size(account.total)}{limit}"
    yield "made of", " + ".join(_lines(account)) or "nothing"
    held = [
        each for each in plan.reserves if (each.device, each.purpose, each.added) == (name, ALLOCATOR, True)
    ]
    for reserve in held:
        yield "runtime", f"{human_size(reserve.nbytes)} of it {_HELD}"
    pinned = pinned_bytes(plan).get(name)
    if pinned:
        yield "pinned", f"{human_size(pinned)} of its weights: they are streamed to accelerators"
    work = counted_workload(plan)
    if work is not None:
        yield "for", workload_text(work).removeprefix("counted for ")
    if plan.tree is None:
        return
    peak = peak_demand(plan, plan.tree, name)
    if peak is not None:
        where = f"`{peak.path}`" if peak.path else "the model"
        yield "its peak", f"{where}, {_moment(plan, peak.purpose)}: {human_size(peak.nbytes)}"
    if account.phase:
        yield "in use then", account.phase
    yield from (("largest", text) for text in _largest(plan, name))


def _moment(plan: Plan, purpose: str) -> str:
    """Say when bytes of a purpose are there; all on one device, reading and writing are told apart."""
    reads = plan.workload is not None and plan.workload.kind == "generate" and purpose in TOGETHER
    return _MOMENTS.get(purpose, "while the prompt is read" if reads else "while it runs")


def _lines(account: Account) -> Iterator[str]:
    for line in LEDGER_LINES:
        nbytes = getattr(account, line)
        if nbytes:
            yield f"{line.replace('_', ' ')} {human_size(nbytes)}"


def _largest(plan: Plan, name: str) -> Iterator[str]:
    tree = plan.tree
    assert tree is not None  # noqa: S101  # the caller asked
    held: Counter[str] = Counter()
    for tensor, unit in enumerate(unit_of_tensors(tree, plan.units)):
        if unit >= 0 and plan.units[unit].store == name and tree.nbytes is not None:
            held[plan.units[unit].path] += tree.nbytes[tensor]
    for path, nbytes in held.most_common(_LARGEST):
        yield f"`{path or '.'}`, {human_size(nbytes)}"

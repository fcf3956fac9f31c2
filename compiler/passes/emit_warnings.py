"""Say what a person would want to know about a placement, with the numbers that would change it.

Every placement warning leaves here: what other passes found is on the plan, the rest is read off it.
A plan without problems gets no word. The pass only speaks: the plan comes out as it went in.

Before:
    plan 1
    model "m"
    device cuda:0 memory 1KiB
    device cpu memory 8KiB
    module a : Linear 2KiB
    place . on cpu run on cuda:0

After:
    plan 1
    model "m"
    device cuda:0 memory 1KiB
    device cpu memory 8KiB
    module a : Linear 2KiB
    place . on cpu run on cuda:0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...ir import Diagnostics, LeftEmpty, ModuleTree, Plan, Role, is_accelerator
from ...ir.coverage import unit_of_tensors
from ..placing.findings import buffers_without_room, left_empty, said, trained_while_streamed
from ..placing.frontier import item_at, item_tensors, opened, whole_modules
from .pipeline import Fact


@dataclass(frozen=True, slots=True)
class EmitWarnings:
    """``offload_buffers``: whether the buffers of streamed units leave the accelerators too."""

    name: ClassVar[str] = "emit-warnings"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.SIZED})
    gives: ClassVar[frozenset[Fact]] = frozenset()
    offload_buffers: bool = False

    def run(self, plan: Plan, diagnostics: Diagnostics) -> Plan:
        """Return the plan untouched."""
        if plan.tree is None or any(unit.store is None for unit in plan.units):
            return plan
        diagnostics.extend(said(finding, plan) for finding in plan.findings)
        named = {finding.device for finding in plan.findings if isinstance(finding, LeftEmpty)}
        for device, nbytes in _empty_devices(plan, plan.tree):
            if device not in named:
                diagnostics.add(left_empty(device, nbytes))
        nbytes = 0 if self.offload_buffers else _homeless_buffers(plan, plan.tree)
        if nbytes:
            diagnostics.add(buffers_without_room(nbytes))
        streamed = [u.path for u in plan.units if u.store != u.run and u.run and is_accelerator(u.run)]
        if streamed and plan.workload is not None and plan.workload.kind == "train":
            diagnostics.add(trained_while_streamed(streamed))
        return plan


def _empty_devices(plan: Plan, tree: ModuleTree) -> list[tuple[str, int]]:
    """Return accelerators that hold nothing while units are offloaded, and what the smallest part needs."""
    held = {unit.store for unit in plan.units}
    off = [unit.path for unit in plan.units if unit.store != unit.run]
    empty = [d for d in plan.devices if is_accelerator(d.name) and d.memory and d.name not in held]
    if not off or not empty:
        return []
    smallest = min(_parts(plan, tree, off), default=0)
    return [(d.name, smallest + d.margin) for d in empty if (d.memory or 0) - d.margin < smallest]


def _parts(plan: Plan, tree: ModuleTree, paths: list[str]) -> list[int]:
    """Return the bytes of the parts that are not opened any further, each with what is tied to it."""
    whole, before, sizes = whole_modules(tree, plan.constraints), tree.prefix_bytes, list[int]()
    stack = [item for path in paths if (item := item_at(tree, path)) is not None]
    while stack:
        item = stack.pop()
        if item >= 0 and not whole[item]:
            stack += opened(tree, item)
        elif tensors := item_tensors(tree, item):
            shared = (
                sum(tree.nbytes[s] for s in {tree.storages[t] for t in tensors} if s not in tensors)
                if tree.nbytes
                else 0
            )
            sizes.append(before[tensors.stop] - before[tensors.start] + shared)
    return [size for size in sizes if size]


def _homeless_buffers(plan: Plan, tree: ModuleTree) -> int:
    """Return the bytes of streamed buffers if no accelerator has that much left, else 0."""
    owner = unit_of_tensors(tree, plan.units)
    sizes = tree.nbytes or ()
    total = sum(
        sizes[tensor]
        for tensor, unit in enumerate(owner)
        if tree.roles[tensor] is not Role.PARAMETER and plan.units[unit].store != plan.units[unit].run
    )
    totals = {account.device: account.total - account.streaming for account in plan.ledger}
    mains = [d for d in plan.devices if is_accelerator(d.name)]
    roomy = any(d.memory is None or totals.get(d.name, 0) + total <= d.memory for d in mains)
    return total if mains and not roomy else 0

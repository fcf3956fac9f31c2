"""Budgets that spread a model evenly, as transformers' ``balanced`` and ``balanced_low_0`` mean it.

Every accelerator but the last may hold an even share and a little more, so that the pieces come out
even; the last one keeps its whole budget, in case they do not.
"""

from __future__ import annotations

from dataclasses import replace

from ..ir import Device, ModuleTree, Plan, is_accelerator
from .frontier import whole_modules


def balanced_budgets(plan: Plan, low_zero: bool) -> tuple[Device, ...]:  # noqa: FBT001  # the named strategy
    """Return the devices with smaller budgets; ``low_zero`` spares the first accelerator.

    Accelerators without a budget take no share, whatever their numbers are.
    """
    if plan.tree is None or plan.tree.nbytes is None:
        return plan.devices
    sharing = [d for d in plan.devices if is_accelerator(d.name) and d.memory]
    if len(sharing) < 2:
        return plan.devices
    spared = sharing[0].name if low_zero else None
    total = plan.tree.prefix_bytes[-1]
    others = [device for device in sharing if device.name != spared]
    share = total // len(others) + _slack(plan, plan.tree)
    budgets = {device.name: min(share, device.memory or 0) for device in others[:-1]}
    if spared is not None:
        held = sum(budgets.get(device.name, device.memory or 0) for device in others)
        budgets[spared] = min(max(0, total - held), sharing[0].memory or 0)
    return tuple(replace(d, memory=budgets.get(d.name, d.memory)) for d in plan.devices)


def _slack(plan: Plan, tree: ModuleTree) -> int:
    """Return 1.25 times the largest module that is not split: what a share may be off by."""
    whole, largest, module = whole_modules(tree, plan.constraints), 0, 1
    while module < len(tree):
        if whole[module]:
            largest = max(largest, tree.subtree_bytes(module))
            module = tree.ends[module]
        else:
            own = tree.own_tensors(module)
            largest = max(largest, tree.prefix_bytes[own.stop] - tree.prefix_bytes[own.start])
            module += 1
    return largest * 5 // 4

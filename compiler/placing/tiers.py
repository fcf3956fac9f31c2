"""What a host keeps for the accelerators that run it: the part of its ledger that drivers will know."""

from __future__ import annotations

from collections import Counter

from ...ir import CPU, Plan, device_type, is_accelerator, unit_of_tensors


def pinned_bytes(plan: Plan) -> dict[str, int]:
    """Return the bytes of weights and buffers that rest pinned, by the device that stores them.

    That is what is stored in a host's memory and runs on an accelerator. It is part of the weights and
    buffers of that host's account, nothing beside them: the block of a unit is registered at its own size,
    which is that of its tensors with each at a multiple of 256 bytes.
    """
    tree = plan.tree
    if tree is None or tree.nbytes is None:
        return {}
    held: Counter[str] = Counter()
    for nbytes, index in zip(tree.nbytes, unit_of_tensors(tree, plan.units), strict=True):
        unit = None if index < 0 else plan.units[index]
        store, run = ("", "") if unit is None else (unit.store or "", unit.run or "")
        if store and run and device_type(store) == CPU and is_accelerator(run):
            held[store] += nbytes
    return dict(held)

"""What a plan asks of every placement, read once: for first fit, for the search and for explanations."""

from __future__ import annotations

from typing import Final

from ...ir import ModuleTree

MOMENTARY: Final = frozenset({"activations", "logits"})
"""Demands of which a device needs only the largest of its units'."""


def demand_tensors(tree: ModuleTree, path: str) -> range:
    """Return the tensors whose device a demand follows; a module without any follows what is before it."""
    module = tree.module_index.get(path)
    if module is None or tree.tensors(module):
        return tree.covered(path)
    before = max(0, tree.first_tensors[module] - 1)
    return range(before, before + 1) if tree.tensor_names else range(0)

"""Share a KV cache of a known size out over the repeated layers of a model.

Each layer of the heaviest numbered stack gets an equal demand, to the byte, so the cache follows the
layers wherever they run. Models whose layers differ are traced instead, which sees each cache.

Before:
    plan 1
    model "m"
    module layers : ModuleList
    module layers.{0..1} : Linear 2KiB

After:
    plan 1
    model "m"
    demand 512B with layers.0 for "kv cache"
    demand 512B with layers.1 for "kv cache"
    module layers : ModuleList
    module layers.{0..1} : Linear 2KiB
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ...ir import Demand, Diagnostics, ModuleTree, Plan
from .pipeline import Fact


@dataclass(frozen=True, slots=True)
class ShareCache:
    """``nbytes`` is the cache of the whole model."""

    name: ClassVar[str] = "share-cache"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.SIZED})
    gives: ClassVar[frozenset[Fact]] = frozenset()
    nbytes: int = 1024

    def run(self, plan: Plan, diagnostics: Diagnostics) -> Plan:
        """Return the plan with one demand a layer."""
        del diagnostics
        if plan.tree is None or self.nbytes == 0 or any(d.purpose == "kv cache" for d in plan.demands):
            return plan
        layers = _heaviest_stack(plan.tree) or [0]
        share, rest = divmod(self.nbytes, len(layers))
        shares = (share + (i < rest) for i in range(len(layers)))
        demands = tuple(
            Demand(size, plan.tree.paths[layer], "kv cache")
            for layer, size in zip(layers, shares, strict=True)
        )
        return replace(plan, demands=plan.demands + demands)


def _heaviest_stack(tree: ModuleTree) -> list[int]:
    stacks: dict[int, list[int]] = {}
    for module, (name, parent) in enumerate(zip(tree.names, tree.parents, strict=True)):
        if name.isdecimal():
            stacks.setdefault(parent, []).append(module)
    repeated = [layers for layers in stacks.values() if len(layers) > 1]
    return max(repeated, key=lambda layers: sum(map(tree.subtree_bytes, layers)), default=[])

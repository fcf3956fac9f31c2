"""Share a KV cache of a known size out over the repeated layers of a model.

Each layer of the heaviest numbered stack gets an equal demand, to the byte, so the cache follows the
layers wherever they run. Where a trace saw the cache of each layer, the size given is shared out as it is.

Before:
    plan 1
    model "m"
    module layers : ModuleList
    module layers.{0..1} : Linear 2KiB

After:
    plan 1
    model "m"
    demand 512B with layers.0 for "kv cache" added
    demand 512B with layers.1 for "kv cache" added
    module layers : ModuleList
    module layers.{0..1} : Linear 2KiB
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from ...ir import Demand, Diagnostic, Diagnostics, Label, ModuleTree, Plan, human_size
from ...ir.purposes import KV_CACHE, TOGETHER
from ...ir.rules.language import CONTRADICTION
from .pipeline import Fact


@dataclass(frozen=True, slots=True)
class ShareCache:
    """``nbytes`` is the cache of the whole model."""

    name: ClassVar[str] = "share-cache"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.SIZED})
    gives: ClassVar[frozenset[Fact]] = frozenset()
    nbytes: int = 1024

    def run(self, plan: Plan, diagnostics: Diagnostics) -> Plan:
        """Return the plan with one demand a layer, in the shares a trace found if there are such."""
        tree = plan.tree
        if tree is None:
            return plan
        cached = [each for each in plan.demands if each.purpose == KV_CACHE]
        written = [each for each in cached if not each.added]
        if written:
            diagnostics.add(_said_twice(written, self.nbytes))
            return plan
        weights = {each.path: each.nbytes for each in cached if each.nbytes}
        weights = weights or {tree.paths[layer]: 1 for layer in _heaviest_stack(tree) or [0]}
        shares = [
            Demand(nbytes, path, KV_CACHE, added=True)
            for path, nbytes in _shares(self.nbytes, weights)
            if nbytes
        ]
        # What a trace knows of everything on one device goes with the cache it saw.
        demands = tuple(each for each in plan.demands if each.purpose not in TOGETHER)
        at = demands.index(cached[0]) if cached else len(demands)
        after = [each for each in demands[at:] if each.purpose != KV_CACHE]
        return replace(plan, demands=(*demands[:at], *shares, *after))


def _shares(total: int, weights: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """Yield the parts of a sum in proportion to weights, to the byte; a sum of the weights is itself."""
    whole = sum(weights.values())
    exact = {path: divmod(total * each, whole) for path, each in weights.items()}
    rest = total - sum(nbytes for nbytes, _ in exact.values())
    first = set(sorted(exact, key=lambda path: -exact[path][1])[:rest])
    yield from ((path, nbytes + (path in first)) for path, (nbytes, _) in exact.items())


def _said_twice(written: Sequence[Demand], nbytes: int) -> Diagnostic:
    lines = sum(each.nbytes for each in written)
    return Diagnostic(
        CONTRADICTION,
        f"`demand` lines say that the KV cache takes {human_size(lines)}, the option {human_size(nbytes)}",
        Label(written[0].span, "said here") if written[0].span else None,
        help="keep the lines, or the option `--kv-cache`",
    )


def _heaviest_stack(tree: ModuleTree) -> list[int]:
    stacks: dict[int, list[int]] = {}
    for module, (name, parent) in enumerate(zip(tree.names, tree.parents, strict=True)):
        if name.isdecimal():
            stacks.setdefault(parent, []).append(module)
    repeated = [layers for layers in stacks.values() if len(layers) > 1]
    return max(repeated, key=lambda layers: sum(map(tree.subtree_bytes, layers)), default=[])

"""Which modules bring their streamed weights: as large as the streaming buffer allows, no larger.

A module is opened only if what is streamed below it does not fit at once; modules of torch itself
are not, because many read the weights of their children without calling them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ...ir import Atomic, ModuleTree, Plan
from ...ir.patterns import matches
from .moves import CONTAINERS, has_forward
from .streaming import Site, Streamed

if TYPE_CHECKING:
    from torch import nn


def streaming_sites(
    plan: Plan, tree: ModuleTree, live: Sequence[nn.Module], streamed: Mapping[int, Streamed]
) -> dict[int, Site]:
    """Return the sites by module index, in tree order.

    Args:
        plan: the bound plan; its ledger says how large the streaming buffer is.
        tree: the model's tree without wrappers.
        live: the module behind each module of the tree.
        streamed: what is streamed, by tensor index.

    """
    lines = [account.streaming for account in plan.ledger if account.streaming]
    room = min(lines) if lines else _largest_block(tree, live, streamed)
    sites: dict[int, Site] = {}
    stack = [(0, 0)]
    while stack:
        module, carrier = stack.pop()
        here = [streamed[i] for i in tree.tensors(module) if i in streamed]
        if not here:
            continue
        callable_ = has_forward(live[module]) and not isinstance(live[module], CONTAINERS)
        carrier = module if callable_ else carrier
        children = tree.children(module)
        whole = len(here) == len(tree.tensors(module)) and sum(one.nbytes for one in _once(here)) <= room
        if callable_ and (whole or not children or _is_closed(plan, tree, module, live[module])):
            sites[module] = Site(tree.paths[module], _once(here))
            continue
        own = [streamed[i] for i in tree.own_tensors(module) if i in streamed]
        if own:
            site = sites.setdefault(carrier, Site(tree.paths[carrier]))
            site.streamed = _once([*site.streamed, *own])
        stack += [(child, carrier) for child in reversed(children)]
    return dict(sorted(sites.items()))


def _once(streamed: Sequence[Streamed]) -> list[Streamed]:
    """Drop repeated objects: a tied tensor is brought once."""
    return list({id(one): one for one in streamed}.values())


def _is_closed(plan: Plan, tree: ModuleTree, module: int, live: nn.Module) -> bool:
    if type(live).__module__.startswith("torch.nn.") and not isinstance(live, CONTAINERS):
        return True
    atoms = [c for c in plan.constraints if isinstance(c, Atomic)]
    return any(
        tree.classes[module] == atom.target if atom.by_class else matches(atom.target, tree.paths[module])
        for atom in atoms
    )


def _largest_block(tree: ModuleTree, live: Sequence[nn.Module], streamed: Mapping[int, Streamed]) -> int:
    """Return the bytes of the largest repeated block or leaf: what one step of a model needs."""
    largest = 0
    for module in range(len(tree)):
        parent = tree.parents[module]
        block = parent >= 0 and isinstance(live[parent], CONTAINERS)
        leaf = tree.ends[module] == module + 1
        if block or leaf:
            here = _once([streamed[i] for i in tree.tensors(module) if i in streamed])
            largest = max(largest, sum(one.nbytes for one in here))
    return largest

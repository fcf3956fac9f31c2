"""Which modules of a live model bring its streamed weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ....ir import ModuleTree, Plan
from ...running.kinds import kinds_of
from ...running.sites import sites_of
from .site import Site
from .streamed import Streamed

if TYPE_CHECKING:
    from torch import nn


def streaming_sites(
    plan: Plan, tree: ModuleTree, live: Sequence[nn.Module], streamed: Mapping[int, Streamed]
) -> dict[int, Site]:
    """Return the sites by module index, in tree order.

    Args:
        plan: the bound plan.
        tree: the model's tree without wrappers.
        live: the module behind each module of the tree.
        streamed: what is streamed, by tensor index.

    """
    numbers = {tensor: id(one) for tensor, one in streamed.items()}
    objects = {id(one): one for one in streamed.values()}
    sizes = {number: one.nbytes for number, one in objects.items()}
    found = sites_of(plan, tree, kinds_of(enumerate(live)), numbers, sizes)
    return {
        module: Site(tree.paths[module], live[module], [objects[number] for number in brought])
        for module, brought in found.items()
    }

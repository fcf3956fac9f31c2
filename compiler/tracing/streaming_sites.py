"""Which modules bring streamed weights, read off a trace, and what that takes on each device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from ...ir import ModuleTree, Plan, unit_of_tensors
from ..running.sites import sites_of
from .labels import first_name, tensor_runs
from .sizes import tensor_nbytes
from .trace import Enter, Trace


@dataclass(frozen=True)
class Streaming:
    """What is streamed, by which modules, and how much a loader may hold at once."""

    trace: Trace
    plan: Plan
    sites: Mapping[int, frozenset[int]]
    """Tensor objects by the module that brings them; both as numbers under their first names."""
    runs: Sequence[str | None] = field(repr=False)
    sizes: Sequence[int] = field(repr=False)

    def nbytes(self, site: int) -> Counter[str]:
        """Return the bytes a site brings to each device."""
        found: Counter[str] = Counter()
        for tensor in self.sites.get(site, ()):
            found[str(self.runs[tensor])] += self.sizes[tensor]
        return found

    @cached_property
    def buffers(self) -> dict[str, int]:
        """What is read ahead on each device at most: the ledger's line, else twice the largest site."""
        devices = {str(self.runs[tensor]) for tensors in self.sites.values() for tensor in tensors}
        lines = [account.streaming for account in self.plan.ledger if account.device in devices]
        largest = max((sum(self.nbytes(site).values()) for site in self.sites), default=0)
        budget = min(lines, default=0) or 2 * largest
        totals: Counter[str] = Counter()
        for site in self.sites:
            totals.update(self.nbytes(site))
        return {device: min(budget, totals[device]) for device in sorted(devices)}

    @cached_property
    def of_tensor(self) -> dict[int, frozenset[int]]:
        """The modules of which one must be running while a tensor is read, by tensor object."""
        found: dict[int, set[int]] = {}
        for site, tensors in self.sites.items():
            for tensor in tensors:
                found.setdefault(tensor, set()).add(site)
        return {tensor: frozenset(sites) for tensor, sites in found.items()}

    @cached_property
    def fetched(self) -> Counter[str]:
        """Bytes each device fetches in one forward: every site, each time it is entered."""
        total: Counter[str] = Counter()
        for step in self.trace.steps:
            if isinstance(step, Enter):
                total.update(self.nbytes(self.trace.calls[step.call].module))
        return total


def streaming_of(trace: Trace, plan: Plan) -> Streaming:
    """Return what a plan streams and where it is brought."""
    tree, owner = trace.tree, unit_of_tensors(trace.tree, plan.units)
    objects = tree.objects or tree.storages
    sizes = _object_sizes(tree, tensor_nbytes(tree, plan.tree))
    runs = tensor_runs(tree, plan.units)
    away = [
        owner[storage] >= 0 and plan.units[owner[storage]].store != plan.units[owner[storage]].run
        for storage in tree.storages
    ]
    streamed = {tensor: objects[tensor] for tensor, is_away in enumerate(away) if is_away}
    found: dict[int, frozenset[int]] = {}
    if streamed:
        nbytes = {number: sizes[number] for number in streamed.values()}
        for module, tensors in sites_of(plan, tree, trace.kinds, streamed, nbytes).items():
            site = first_name(tree, module)
            found[site] = found.get(site, frozenset()) | frozenset(tensors)
    return Streaming(trace, plan, found, runs, sizes)


def _object_sizes(tree: ModuleTree, nbytes: Sequence[int]) -> list[int]:
    return [nbytes[storage] for storage in tree.storages]

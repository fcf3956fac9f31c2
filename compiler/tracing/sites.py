"""Which modules bring streamed weights, by the loader's rules, read off a trace.

A site is as large as the streaming buffer allows and no larger; a module is opened only if what is
streamed below it does not fit at once. `loading.sites` does the same on a live model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from ...ir import Atomic, ModuleTree, Plan, unit_of_tensors
from ...ir.patterns import matches
from .places import first_name, tensor_runs
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
        for module, tensors in _Walk(trace, plan, streamed, sizes).sites().items():
            site = first_name(tree, module)
            found[site] = found.get(site, frozenset()) | tensors
    return Streaming(trace, plan, found, runs, sizes)


def _object_sizes(tree: ModuleTree, nbytes: Sequence[int]) -> list[int]:
    return [nbytes[storage] for storage in tree.storages]


class _Walk:
    def __init__(
        self, trace: Trace, plan: Plan, streamed: Mapping[int, int], sizes: Sequence[int]
    ) -> None:  # fmt: skip
        self.trace = trace
        self.tree = trace.tree
        self.streamed = streamed
        self.sizes = sizes
        atoms = [rule for rule in plan.constraints if isinstance(rule, Atomic)]
        self.classes = {rule.target for rule in atoms if rule.by_class}
        self.patterns = [rule.target for rule in atoms if not rule.by_class]
        lines = [account.streaming for account in plan.ledger if account.streaming]
        self.room = min(lines) if lines else self._largest_block()

    def sites(self) -> dict[int, frozenset[int]]:
        """Return the streamed tensors of each site, in tree order."""
        tree, found = self.tree, dict[int, frozenset[int]]()
        stack = [(0, 0)]
        while stack:
            module, carrier = stack.pop()
            here = self._here(module)
            if not here:
                continue
            callable_ = module not in self.trace.containers
            carrier = module if callable_ else carrier
            children = tree.children(module)
            if callable_ and (self._whole(module, here) or not children or self._closed(module)):
                found[module] = here
                continue
            own = frozenset(self.streamed[i] for i in tree.own_tensors(module) if i in self.streamed)
            if own:
                found[carrier] = found.get(carrier, frozenset()) | own
            stack += [(child, carrier) for child in reversed(children)]
        return dict(sorted(found.items()))

    def _here(self, module: int) -> frozenset[int]:
        return frozenset(self.streamed[i] for i in self.tree.tensors(module) if i in self.streamed)

    def _whole(self, module: int, here: frozenset[int]) -> bool:
        everything = all(i in self.streamed for i in self.tree.tensors(module))
        return everything and sum(self.sizes[i] for i in here) <= self.room

    def _closed(self, module: int) -> bool:
        if module in self.trace.kinds.library or self.tree.classes[module] in self.classes:
            return True
        path = self.tree.paths[module]
        return any(matches(pattern, path) for pattern in self.patterns)

    def _largest_block(self) -> int:
        """Return the bytes of the largest repeated block or leaf: what one step of a model needs."""
        tree, largest = self.tree, 0
        for module, parent in enumerate(tree.parents):
            if parent in self.trace.kinds.stacks or tree.ends[module] == module + 1:
                largest = max(largest, sum(self.sizes[i] for i in self._here(module)))
        return largest

"""Which modules bring streamed weights: as large as the streaming buffer allows, no larger.

A module is opened only if what is streamed below it does not fit at once. The loader asks for a live
model, the verifier for a traced one.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...ir import ModuleTree, Plan, atomic_modules, homes_of


@dataclass(frozen=True, slots=True)
class Kinds:
    """What the tree's class names do not tell of its modules."""

    containers: frozenset[int] = frozenset()
    """Without a forward of their own (`ModuleList`): never called, entered through their children."""
    stacks: frozenset[int] = frozenset()
    """torch's lists, mappings and sequences of modules; their children are blocks."""
    closed: frozenset[int] = frozenset()
    """Modules that may read the weights of their children without calling them."""

    @property
    def open(self) -> frozenset[int]:
        """Modules that are entered through their children, whether or not they are called too."""
        return self.containers | self.stacks


def tensors_beside(tree: ModuleTree, module: int) -> Sequence[int]:
    """Return the tensors that say where a module runs: its own, those below, or of the nearest around it."""
    found = tree.own_tensors(module)
    while not found and module >= 0:
        found = tree.tensors(module)
        module = tree.parents[module]
    return found


def sites_of(
    plan: Plan, tree: ModuleTree, kinds: Kinds, streamed: Mapping[int, int], sizes: Mapping[int, int]
) -> dict[int, tuple[int, ...]]:
    """Return the streamed objects each site brings, by module, both in tree order.

    Args:
        plan: its ledger says how large the streaming buffer is, its constraints what is never opened.
        tree: the model's tree.
        kinds: what its modules are.
        streamed: the object behind each streamed tensor, as numbers; a tied one is one object.
        sizes: bytes of each object while in use.

    """
    visited = _entered(
        {tree.module_index[plan.units[unit].path] for unit in homes_of(tree, plan.units)}, tree, kinds
    )
    closed = kinds.closed.union(atomic_modules(tree, plan.constraints), visited)
    return _Walk(tree, kinds, streamed, sizes, closed, sorted(visited)).sites(plan)


def _entered(modules: set[int], tree: ModuleTree, kinds: Kinds) -> frozenset[int]:
    """Return the modules that are called where these are visited: lists are entered through their members."""
    found, stack = set[int](), [*modules]
    while stack:
        module = stack.pop()
        if module in kinds.open:
            stack += tree.children(module)
        if module not in kinds.containers:
            found.add(module)
    return frozenset(found)


@dataclass(frozen=True, slots=True)
class _Walk:
    tree: ModuleTree
    kinds: Kinds
    streamed: Mapping[int, int]
    sizes: Mapping[int, int]
    closed: frozenset[int]
    visited: Sequence[int]
    """Parts of closed modules that bring their own weights."""

    def sites(self, plan: Plan) -> dict[int, tuple[int, ...]]:
        lines = [account.streaming for account in plan.ledger if account.streaming]
        room = min(lines) if lines else self._largest_block()
        tree, found = self.tree, dict[int, tuple[int, ...]]()
        stack = [(0, 0)]
        while stack:
            module, carrier = stack.pop()
            here = self._objects(tree.tensors(module))
            if not here:
                continue
            callable_ = module not in self.kinds.open
            carrier = module if callable_ else carrier
            children = tree.children(module)
            whole = all(i in self.streamed for i in tree.tensors(module)) and self._nbytes(here) <= room
            if callable_ and (whole or not children or module in self.closed):
                parts = self._parts(module)
                theirs = {tensor for part in parts for tensor in tree.tensors(part)}
                own = self._objects([i for i in tree.tensors(module) if i not in theirs])
                found |= {module: own} if own else {}
                stack += [(part, part) for part in parts]
                continue
            own = self._objects(tree.own_tensors(module))
            if own:
                found[carrier] = tuple(dict.fromkeys((*found.get(carrier, ()), *own)))
            stack += [(child, carrier) for child in reversed(children)]
        return dict(sorted(found.items()))

    def _parts(self, module: int) -> list[int]:
        """Return the outermost visited modules in one."""
        found: list[int] = []
        first = bisect_right(self.visited, module)
        for part in self.visited[first : bisect_left(self.visited, self.tree.ends[module])]:
            if not found or part >= self.tree.ends[found[-1]]:
                found.append(part)
        return found

    def _objects(self, tensors: Sequence[int]) -> tuple[int, ...]:
        return tuple(dict.fromkeys(self.streamed[i] for i in tensors if i in self.streamed))

    def _nbytes(self, objects: Sequence[int]) -> int:
        return sum(self.sizes[number] for number in objects)

    def _largest_block(self) -> int:
        """Return the bytes of the largest repeated block or leaf: what one step of a model needs."""
        tree = self.tree
        return max(
            self._nbytes(self._objects(tree.tensors(module)))
            for module, parent in enumerate(tree.parents)
            if parent in self.kinds.stacks or tree.ends[module] == module + 1
        )

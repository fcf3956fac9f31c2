"""A plan as engines see it: a stack of layers, what comes before it and what after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from ...ir import ModuleTree, Plan, is_accelerator, unit_of_tensors

EXPERTS = "experts"


@dataclass(frozen=True, slots=True)
class Apart:
    """What of a layer is not at its layer's place: one module, or one bare tensor."""

    path: str
    nbytes: int
    store: str
    run: str


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: where most of it is, and what of it is elsewhere."""

    path: str
    nbytes: int
    store: str
    run: str
    parts: tuple[Apart, ...] = ()

    @property
    def streamed(self) -> bool:
        """Say whether its weights travel to where they are used."""
        return self.store != self.run


@dataclass(frozen=True, slots=True)
class Stack:
    """The layers of a model in order, and the parts of the model around them."""

    path: str
    layers: tuple[Layer, ...]
    before: tuple[Apart, ...]
    """What is used before the first layer: the embedding."""
    after: tuple[Apart, ...]
    """What is used after the last: the norm and the head. An embedding tied to the head is in neither."""

    def segments(self) -> list[tuple[str, int]]:
        """Return the devices the layers run on in order, each with how many follow each other there."""
        return [(device, len([*same])) for device, same in groupby(layer.run for layer in self.layers)]


def stack_of(plan: Plan) -> Stack | None:
    """Return the largest stack of numbered layers of a placed plan; None when there is none."""
    tree = plan.tree
    if tree is None or tree.nbytes is None or any(unit.store is None for unit in plan.units):
        return None
    found = largest_stack(tree)
    if found is None:
        return None
    owner = unit_of_tensors(tree, plan.units)
    if -1 in owner:
        return None
    children = sorted(tree.children(found), key=lambda child: int(tree.names[child]))
    layers = tuple(_layer(plan, tree, owner, child) for child in children)
    first, last = tree.tensors(found).start, tree.tensors(found).stop
    before = _parts(plan, tree, owner, range(first))
    after = _parts(plan, tree, owner, range(last, len(tree.tensor_names)))
    early, late = _by_name(before, after)
    return Stack(tree.paths[found], layers, early, late)


_AFTER = ("lm_head", "head", "output", "output_norm", "norm", "ln_f", "final_layer_norm", "embed_out")


def _by_name(before: Sequence[Apart], after: Sequence[Apart]) -> tuple[tuple[Apart, ...], tuple[Apart, ...]]:
    """Put heads and last norms behind the stack, wherever a checkpoint lists them."""
    parts = [(part, False) for part in before] + [(part, True) for part in after]
    named = [(part, _stands_after(part.path, listed=listed)) for part, listed in parts]
    return tuple(p for p, late in named if not late), tuple(p for p, late in named if late)


def _stands_after(path: str, *, listed: bool) -> bool:
    names = path.split(".")
    if any("embd" in name or name.startswith(("embed_tokens", "wte", "wpe")) for name in names):
        return False
    return listed or any(name in _AFTER for name in names)


def largest_stack(tree: ModuleTree) -> int | None:
    """Return the module with the most bytes in children that are numbered from 0 on."""
    stacks = []
    for module in range(len(tree)):
        names = [tree.names[child] for child in tree.children(module)]
        if len(names) > 1 and set(names) == {str(number) for number in range(len(names))}:
            stacks.append((-tree.subtree_bytes(module), module))
    return min(stacks)[1] if stacks else None


def is_experts(name: str) -> bool:
    """Say whether a module or a tensor of this name holds experts, all of a layer or one kind of weight."""
    return name == EXPERTS or name.endswith("_exps")


def _layer(plan: Plan, tree: ModuleTree, owner: list[int], module: int) -> Layer:
    parts = _parts(plan, tree, owner, tree.tensors(module))
    weights: Counter[tuple[str, str]] = Counter()
    for part in [part for part in parts if not is_experts(part.path.rpartition(".")[2])] or parts:
        weights[part.store, part.run] += part.nbytes
    runs = [place for place in weights if is_accelerator(place[1])] or list(weights)
    # A layer is where its attention computes: experts, and parts on the host, visit it, however large.
    store, run = max(runs, key=lambda place: (place[0] == place[1], weights[place]))
    apart = tuple(part for part in parts if (part.store, part.run) != (store, run))
    return Layer(tree.paths[module], sum(part.nbytes for part in parts), store, run, apart)


def _parts(plan: Plan, tree: ModuleTree, owner: list[int], tensors: range) -> tuple[Apart, ...]:
    """Return the largest modules of a run of tensors that are at one place, then bare tensors."""
    return tuple(_walk(plan, tree, owner, tensors))


def _walk(plan: Plan, tree: ModuleTree, owner: list[int], tensors: range) -> Iterator[Apart]:
    assert tree.nbytes is not None  # noqa: S101  asked by stack_of
    position = tensors.start
    while position < tensors.stop:
        unit = plan.units[owner[position]]
        place = unit.store or "", unit.run or ""
        module, end = tree.owners[position], position + 1
        path = tree.tensor_paths[position]
        while module > 0 and _at_one_place(plan, owner, tree.tensors(module), tensors, place):
            path, end = tree.paths[module], tree.tensors(module).stop
            module = tree.parents[module]
        nbytes = sum(
            tree.nbytes[tensor] for tensor in range(position, end) if tree.storages[tensor] == tensor
        )
        yield Apart(path, nbytes, *place)
        position = end


def _at_one_place(plan: Plan, owner: list[int], inner: range, outer: range, place: tuple[str, str]) -> bool:
    inside = outer.start <= inner.start and inner.stop <= outer.stop
    return inside and all(
        (plan.units[owner[tensor]].store, plan.units[owner[tensor]].run) == place for tensor in inner
    )

"""Layouts an engine can be told, as lines, from the one that keeps most on the cards to the one with least.

They are what people who know the engine write by hand; which of them is the first that fits is found by
compiling them, so that every budget, reserve and cache counts as in any other plan.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from ...grammar.ranges import fold_paths
from ...grammar.words import spell_path
from ...ir import CPU, Account, Plan, device_type, is_accelerator, is_within
from ...ir.purposes import MOMENTARY, TOGETHER
from .checks import whole_lines
from .gguf_names import gguf_names
from .stack import Apart, Stack, is_experts, stack_of

_PERIODS = (*((group, 1) for group in range(16, 1, -1)), (3, 2), (4, 3), (1, 1))
"""From few streamed layers to all; one at a time, as each that is fetched ahead takes room for itself."""


@dataclass(frozen=True)
class _Layers:
    """The layers of a placed plan, and which modules of theirs are experts."""

    plan: Plan
    stack: Stack

    @cached_property
    def paths(self) -> tuple[str, ...]:
        return tuple(layer.path for layer in self.stack.layers)

    @cached_property
    def experts(self) -> tuple[tuple[str, ...], ...]:
        """The experts of each layer, outermost modules or tensors."""
        return tuple(tuple(self._split(self._index(path))[0]) for path in self.paths)

    @cached_property
    def others(self) -> tuple[tuple[str, ...], ...]:
        """What else each layer has."""
        return tuple(tuple(self._split(self._index(path))[1]) for path in self.paths)

    @cached_property
    def host(self) -> str | None:
        return next((each.name for each in self.plan.devices if device_type(each.name) == CPU), None)

    @cached_property
    def off_cards(self) -> tuple[str, ...]:
        return tuple(each.name for each in self.plan.devices if not is_accelerator(each.name))

    def _index(self, path: str) -> int:
        assert self.plan.tree is not None  # noqa: S101  a stack was found in it
        return self.plan.tree.module_index[path]

    def _split(self, module: int) -> tuple[list[str], list[str]]:
        """Return the experts below a module, and what is beside them."""
        tree = self.plan.tree
        assert tree is not None  # noqa: S101  a stack was found in it
        found: list[str] = []
        beside = [tree.tensor_paths[tensor] for tensor in tree.own_tensors(module)]
        for child in tree.children(module):
            if is_experts(tree.names[child]):
                found.append(tree.paths[child])
            elif any(is_experts(tree.names[inner]) for inner in range(child + 1, tree.ends[child])):
                inside = self._split(child)
                found, beside = found + inside[0], beside + inside[1]
            elif tree.tensors(child):
                beside.append(tree.paths[child])
        return found, beside

    def forbid(self, paths: tuple[str, ...]) -> Iterator[str]:
        """Yield lines that keep paths on the cards."""
        for name in self.off_cards:
            yield from (f"never {path} on {name}" for path in folded(paths))


def folded(paths: tuple[str, ...]) -> list[str]:
    """Return patterns that name these paths, as they are written."""
    return [spell_path(each.path) for each in fold_paths(paths)]


def host_first(plan: Plan) -> list[str]:
    """Return layouts of an engine that computes on the host what is there, first layers first.

    A mixture keeps the experts of its first layers there before it keeps any layer; attention is worth more
    on a card than experts of which a token needs few. Experts whose names the engine cannot be told stay
    with their layers.
    """
    stack = stack_of(plan)
    layers = None if stack is None else _Layers(plan, stack)
    if stack is None or layers is None or layers.host is None:
        return []
    named = _named(plan, layers)
    with_experts = [number for number, found in enumerate(layers.experts) if found and named]
    parts = [_host_first(layers, 0, with_experts[:count]) for count in range(len(with_experts) + 1)]
    whole = [_host_first(layers, count, with_experts) for count in range(1, len(layers.paths) + 1)]
    kept = "" if named else "".join(f"{line}\n" for line in whole_lines(stack.path))
    return [text + kept for text in parts + whole]


def _named(plan: Plan, layers: _Layers) -> bool:
    """Say whether the experts have names in a GGUF file."""
    paths = dict.fromkeys(path for found in layers.experts for path in found)
    return gguf_names(plan, layers.stack, [Apart(path, 0, "", "") for path in paths]) is not None


def _host_first(layers: _Layers, first: int, experts: list[int]) -> str:
    """Write the layout with so many whole layers on the host, and of these layers the experts."""
    host = layers.host
    apart = tuple(path for number in experts if number >= first for path in layers.experts[number])
    stay = [
        path
        for number in range(first, len(layers.paths))
        for path in (layers.others[number] if number in experts else (layers.paths[number],))
    ]
    after = tuple(part.path for part in layers.stack.after)
    rows = [f"place {path} on {host}" for path in folded((*layers.paths[:first], *apart))]
    rows += layers.forbid((*stay, *(after if first < len(layers.paths) else ())))
    return "".join(f"{row}\n" for row in rows)


def streamed_in_periods(plan: Plan, *, whole: bool, parts: bool) -> list[str]:
    """Return layouts of an engine that streams the last k of every N layers of each rank.

    Args:
        plan: a placed plan of the model on its devices.
        whole: the engine streams whole layers.
        parts: it streams the experts of layers alone, which is preferred.

    """
    stack = stack_of(plan)
    layers = None if stack is None else _Layers(plan, stack)
    if layers is None or layers.host is None:
        return []
    apart = parts and any(layers.experts)
    if not (apart or whole):
        return []
    found = (_in_period(layers, group, count, apart=apart) for group, count in _PERIODS)
    return [text for text in found if text]


def _in_period(layers: _Layers, group: int, count: int, *, apart: bool) -> str:
    """Write the layout of one period; ``""`` where the layers do not fit on the ranks."""
    rows, at = list[str](), 0
    ranks = [each.name for each in layers.plan.devices if is_accelerator(each.name)]
    for number, rank in enumerate(ranks):
        last = number == len(ranks) - 1
        stop = _filled(layers, rank, at, group, count, apart=apart, last=last)
        streamed = [i for i in range(at, stop) if (i - at) % group >= group - count]
        moved = [path for i in streamed for path in (layers.experts[i] if apart else (layers.paths[i],))]
        rows += [f"place {path} on {rank}" for path in folded(layers.paths[at:stop])]
        rows += [f"place {path} on {layers.host} run on {rank}" for path in folded(tuple(moved))]
        if at == 0:
            rows += [f"place {part.path} on {rank}" for part in layers.stack.before]
        at = stop
        if at == len(layers.paths):
            rows += [f"place {part.path} on {rank}" for part in layers.stack.after]
            return "".join(f"{row}\n" for row in rows)
    return ""


def _filled(
    layers: _Layers, rank: str, start: int, group: int, count: int, *, apart: bool, last: bool
) -> int:
    """Return the layer behind the last one that fits on a rank; the ends of the model are there too."""
    device = next(each for each in layers.plan.devices if each.name == rank)
    account = next((each for each in layers.plan.ledger if each.device == rank), Account(rank))
    if device.memory is None:
        return len(layers.paths)
    tree = layers.plan.tree
    assert tree is not None  # noqa: S101  a stack was found in it
    ends = (*(layers.stack.before if start == 0 else ()), *(layers.stack.after if last else ()))
    moments = (d for d in layers.plan.demands if d.purpose in MOMENTARY - TOGETHER)
    momentary = max((d.nbytes for d in moments), default=0)
    room = device.memory - account.runtime - account.reserve - account.margin - momentary
    room -= sum(part.nbytes for part in ends)
    slots = largest = 0
    for number in range(start, len(layers.paths)):
        path = layers.paths[number]
        nbytes = tree.subtree_bytes(tree.module_index[path])
        if (number - start) % group >= group - count:
            moved = layers.experts[number] if apart else (path,)
            sizes = [sum((tree.nbytes or ())[tensor] for tensor in tree.covered(each)) for each in moved]
            nbytes -= sum(sizes)
            largest = max(largest, sum(sizes))
            slots = count * largest  # the engine keeps a slot for each layer it fetches ahead
        nbytes += sum(
            d.nbytes for d in layers.plan.demands if d.purpose not in MOMENTARY and is_within(d.path, path)
        )
        room -= nbytes
        if room < slots:
            return number
    return len(layers.paths)

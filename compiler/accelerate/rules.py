"""The rules of `accelerate.infer_auto_device_map` 1.15, each of its quirks in one named place.

Sizes are in eighths of a byte, because accelerate counts a bool as one bit. Direct buffers of an
opened module, and a second name for the same module or tensor beside the first, are not placed by
these rules at all. Ties are in `accelerate_ties`, what is kept free in `LargestLayer`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from itertools import accumulate

from ...ir import CPU, MPS, ModuleTree, Plan, Role, device_type, is_accelerator
from ..placing.frontier import Worklist, item_tensors, whole_modules
from ..placing.greedy import bring_forward
from .ties import NamedTies


class AccelerateRules:
    """One run of accelerate's strategy; ``limits`` are eighths of a byte, None is unlimited."""

    def __init__(self, plan: Plan, tree: ModuleTree, limits: list[int | None], *, fallback: bool) -> None:
        self.tree, self._limits, self._fallback = tree, limits, fallback
        self._main = _main_devices([device.name for device in plan.devices])
        self.along: set[int] = set()
        """Items that were placed only because something tied to them was."""
        self._whole = whole_modules(tree, plan.constraints)
        self.counted = counted_once(tree)
        self._before = list(accumulate(self.counted, initial=0))
        self._ties = NamedTies(tree, self.counted)
        tensors = [~t for t in self._own(0, buffers=False)]
        buffers = [~t for t in self._own(0, buffers=True)]
        self.items = [*tensors, *self._children(0), *buffers]
        self._largest = LargestLayer(tree, self.size, _layers(tree, self._whole), tensors + buffers)

    def parts(self, item: int) -> list[int]:
        """Return what takes an item's place: parameters, then children, but no buffers."""
        if item < 0 or self._whole[item]:
            return []
        return [*(~t for t in self._own(item, buffers=False)), *self._children(item)]

    def size(self, item: int) -> int:
        """Return what accelerate counts for an item; shared tensors where they come first."""
        if item < 0:
            return self.counted[~item]
        tree = self.tree
        return self._before[tree.first_tensors[tree.ends[item]]] - self._before[tree.first_tensors[item]]

    def partners(self, item: int, work: Worklist) -> tuple[list[int], int]:
        """Return what is tied to an item by name; a module counts once for each tie into it."""
        if not self._ties.groups:
            return [], 0
        outside = self._ties.outside(item)
        holders = [self._ties.holder(tensor, work) for tensor in outside]
        return holders, sum(map(self.size, holders)) - sum(self.counted[t] for t in outside)

    def room(self, device: int, used: list[int]) -> int | None:
        """Return what is left on a device."""
        limit = self._limits[device]
        return None if limit is None else limit - used[device]

    def reserved(self, device: int) -> int:
        """Return the largest waiting layer on devices that run what is offloaded, even if nothing is."""
        return self._largest.size if device in self._main else 0

    def first_device(self, item: int, current: int) -> int:
        """Return the current device: accelerate never looks back or ahead."""
        del item
        return current

    def forward(self, work: Worklist, device: int, needed: int) -> int | None:
        """Return the first waiting item that fits beside the largest layer and the stuck item."""
        limit = self._limits[device]
        if not self._fallback or limit is None:
            return None
        return bring_forward(self, work, limit - max(self._largest.size, needed))

    def taken(self, item: int) -> None:
        """Forget the item among the largest layers."""
        self._largest.take(item)

    def opened(self) -> None:
        """Look for the largest layer again."""
        self._largest.recount()

    def placed(self, item: int, *, along: bool) -> None:
        """Strike the item's layers."""
        if along:
            self.along.add(item)
        self._largest.place(item, along=along)

    def _own(self, module: int, *, buffers: bool) -> Iterable[int]:
        """Return a module's own tensors of one kind, the same object once."""
        same = self.tree.objects or self.tree.storages
        found: dict[int, int] = {}
        for tensor in self.tree.own_tensors(module):
            if (self.tree.roles[tensor] is not Role.PARAMETER) == buffers:
                found.setdefault(same[tensor], tensor)
        return found.values()

    def _children(self, module: int) -> Iterable[int]:
        """Return a module's children, the same object once."""
        children = self.tree.children(module)
        if self.tree.twins is None:
            return children
        found: dict[int, int] = {}
        for child in children:
            found.setdefault(self.tree.twins[child], child)
        return found.values()


class LargestLayer:
    """The bytes accelerate keeps free: the largest layer among what waits, as it remembers it.

    It remembers the names of all layers of that size, strikes those it takes out to decide, and looks
    again when none is left or something was opened. Layers placed along with a tied one are never
    struck, so until the next look they keep their room reserved.
    """

    def __init__(
        self, tree: ModuleTree, size_of: Callable[[int], int], layers: list[int], tensors: list[int]
    ) -> None:
        self._tree = tree
        self._by_size: dict[int, list[int]] = {}
        for layer in layers:
            self._by_size.setdefault(size_of(layer), []).append(layer)
        self._sizes = sorted(self._by_size, reverse=True)
        self._passed = dict.fromkeys(self._sizes, 0)
        self._gone = bytearray(len(tree))
        self._struck: set[int] = set()
        self._kept = False
        self._tensors: set[int] = set()
        self.size = 0
        self.recount()
        # Only the first look counts the bare tensors of the root among the layers.
        largest = max(map(size_of, tensors), default=0)
        if largest >= self.size:
            self._tensors = {item for item in tensors if size_of(item) == largest}
            self.size = largest

    def recount(self, without: int | None = None) -> None:
        """Look through everything that waits, except an item that was just taken out."""
        self._struck = set() if without is None or without < 0 else {without}
        self._tensors, self._kept = set(), False
        while self._sizes and self._passed[self._sizes[0]] == len(self._by_size[self._sizes[0]]):
            self._sizes.pop(0)
        self.size = next((size for size in self._sizes if self._any_waits(size)), 0)

    def take(self, item: int) -> None:
        """Strike the layers of an item that is taken out."""
        if item >= 0:
            self._struck.add(item)
        self._tensors.discard(item)
        if not (self._kept or self._tensors or self._any_waits(self.size)):
            self.recount(without=item)

    def place(self, item: int, *, along: bool) -> None:
        """Hear that an item has its place."""
        if item < 0:
            return
        end = self._tree.ends[item]
        if along and item not in self._struck:
            layers = self._by_size.get(self.size, [])
            at = bisect_left(layers, item)
            self._kept |= at < len(layers) and layers[at] < end
        self._gone[item:end] = b"\1" * (end - item)
        self._struck.discard(item)

    def _any_waits(self, size: int) -> bool:
        layers = self._by_size.get(size, [])
        at = self._passed.get(size, 0)
        while at < len(layers) and self._gone[layers[at]]:
            at += 1
        if layers:
            self._passed[size] = at
        while at < len(layers):
            over = next((i for i in self._struck if i <= layers[at] < self._tree.ends[i]), None)
            if over is not None:
                at = bisect_left(layers, self._tree.ends[over])
            elif self._gone[layers[at]]:
                at += 1
            else:
                return True
        return False


def counted_once(tree: ModuleTree) -> list[int]:
    """Return each tensor's size as accelerate counts it: a parameter or buffer object once."""
    sizes = tree.eighths or [8 * nbytes for nbytes in tree.nbytes or ()]
    same = tree.objects or tree.storages
    if same == tuple(range(len(same))):
        return [*sizes]
    seen: set[tuple[int, bool]] = set()
    counted = []
    for key, role, size in zip(same, tree.roles, sizes, strict=True):
        counted.append(0 if (one := (key, role is Role.PARAMETER)) in seen else size)
        seen.add(one)
    return counted


def buffer_sizes(tree: ModuleTree, item: int) -> int:
    """Return what accelerate counts for the buffers of a module; a bare buffer is not counted."""
    if item < 0 or tree.eighths is None:
        return 0
    same = tree.objects or tree.storages
    found = {
        same[t]: tree.eighths[t] for t in item_tensors(tree, item) if tree.roles[t] is not Role.PARAMETER
    }
    return sum(found.values())


def _layers(tree: ModuleTree, whole: bytearray) -> list[int]:
    """Return the outermost modules that are not split, in order."""
    layers, module = [], 1
    while module < len(tree):
        if whole[module]:
            layers.append(module)
            module = tree.ends[module]
        else:
            module += 1
    return layers


def _main_devices(names: list[str]) -> set[int]:
    """Return the devices that keep room for offloaded layers: the first accelerator and the CPU, or mps."""
    accelerators = [i for i, name in enumerate(names) if is_accelerator(name)]
    mps = {i for i in accelerators if device_type(names[i]) == MPS}
    return mps or {*accelerators[:1], *(i for i, name in enumerate(names) if device_type(name) == CPU)}

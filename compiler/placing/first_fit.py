"""The rules of first fit: what is tied goes together, pins and bans hold, nothing is reserved unasked.

Sizes are bytes: a unit's own, and what its demands (a KV cache) need beside it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import accumulate

from ...ir import CPU, DISK, Device, ModuleTree, Plan, device_type, host_of, is_accelerator
from .frontier import Worklist, item_tensors, openable
from .terms import Terms, terms_of


class FirstFitRules:
    """One run over the devices of a plan.

    ``fixed`` are the devices of pinned items; ``streaming`` is kept free, in bytes by device index.
    """

    def __init__(
        self, plan: Plan, tree: ModuleTree, fixed: dict[int, int], streaming: dict[int, int]
    ) -> None:
        self._tree, self._streaming = tree, streaming
        self.parts = openable(plan)
        terms = terms_of(plan, tree)
        self._before = list(accumulate(sizes_with_demands(terms, tree), initial=0))
        self._group_of = {tensor: group for group in terms.groups for tensor in group}
        self._pinned = {t: device for item, device in fixed.items() for t in item_tensors(tree, item)}
        self._banned = _unfit(plan, terms)
        self._limits = limits_of(terms)
        peak = max((demand.nbytes for demand in terms.momentary), default=0)
        self._pools = [pool._replace(room=pool.room - peak * len(pool.members)) for pool in terms.pools]
        if run_device(plan.devices, ()) is None:  # what is on a disk could run nowhere
            self._limits = [-1 if device_type(d.name) == DISK else 0 for d in plan.devices]

    def size(self, item: int) -> int:
        """Return the bytes of an item and of its demands."""
        tensors = item_tensors(self._tree, item)
        return self._before[tensors.stop] - self._before[tensors.start]

    def partners(self, item: int, work: Worklist) -> tuple[list[int], int]:
        """Return everything that is tied to an item, directly or through something else."""
        found = {item: None}
        queue = [item] if self._group_of else []
        while queue:
            for tensor in self._tied(queue.pop()):
                holder = work.holder(tensor)
                if holder is not None and holder not in found:
                    found[holder] = None
                    queue.append(holder)
        del found[item]
        return list(found), sum(map(self.size, found))

    def room(self, device: int, used: list[int]) -> int | None:
        """Return what is left on a device and in the pool it belongs to."""
        limit = self._limits[device]
        rooms = [] if limit is None else [limit - used[device]]
        rooms += [p.room - sum(used[d] for d in p.members) for p in self._pools if device in p.members]
        return min(rooms, default=None)

    def reserved(self, device: int) -> int:
        """Return what is kept for streaming."""
        return self._streaming.get(device, 0)

    def first_device(self, item: int, current: int) -> int:
        """Return the first device that may hold all of an item; where a tied pin is, if there is one."""
        if not self._banned and not self._pinned:
            return current
        pinned, banned = self._ruled(item)
        if pinned is not None:
            return pinned
        return next((d for d in range(current, len(self._limits)) if d not in banned), len(self._limits))

    def first_roomy(self, item: int, needed: int, used: list[int], among: Iterable[int]) -> int | None:
        """Return the first of some devices that may hold all of an item and has the room it needs."""
        pinned, banned = self._ruled(item)
        for device in among:
            kept, limit = self.reserved(device), self._limits[device]
            if limit is not None and needed > limit - used[device] - kept:  # most often so: asked first
                continue
            room = self.room(device, used) if self._pools else None
            free = room is None or needed <= room - kept
            if free and (pinned == device if pinned is not None else device not in banned):
                return device
        return None

    def _ruled(self, item: int) -> tuple[int | None, Collection[int]]:
        """Return where a tied pin is, and the devices that must not hold an item."""
        tensors = {*item_tensors(self._tree, item), *self._tied(item)}
        pinned = next((self._pinned[t] for t in sorted(tensors) if t in self._pinned), None)
        return pinned, {device for t in tensors for device in self._banned.get(t, ())}

    def forward(self, work: Worklist, device: int, needed: int) -> None:
        """Return nothing: first fit repairs empty devices afterwards."""
        del work, device, needed

    def taken(self, item: int) -> None:
        """Remember nothing."""

    def opened(self) -> None:
        """Remember nothing."""

    def placed(self, item: int, *, along: bool) -> None:
        """Remember nothing."""

    def allow(self, places: Mapping[int, int]) -> bool:
        """Say whether a whole placement made by other rules keeps these: room, ties, pins and bans."""
        used, device_of = [0] * len(self._limits), [-1] * len(self._tree.tensor_names)
        for item, device in places.items():
            used[device] += self.size(item)
            tensors = item_tensors(self._tree, item)
            device_of[tensors.start : tensors.stop] = [device] * len(tensors)
        groups = {id(group): group for group in self._group_of.values()}.values()
        return (
            all((room := self.room(device, used)) is None or room >= 0 for device in set(places.values()))
            and all(len({device_of[tensor] for tensor in group}) == 1 for group in groups)
            and all(device_of[tensor] == device for tensor, device in self._pinned.items())
            and all(device_of[tensor] not in banned for tensor, banned in self._banned.items())
        )

    def _tied(self, item: int) -> Iterable[int]:
        groups = {group[0]: group for t in item_tensors(self._tree, item) if (group := self._group_of.get(t))}
        return [tensor for group in groups.values() for tensor in group]


def run_device(
    devices: tuple[Device, ...],
    stores: Iterable[int],
    beside: int | None = None,
    banned: Collection[int] = (),
) -> int | None:
    """Return what streamed units run on: the first accelerator that holds something, else the CPU.

    ``beside`` is where they are stored: what runs them is on the same host, and none of the ``banned``.
    """
    held = set(stores)
    here = [
        i
        for i, device in enumerate(devices)
        if i not in banned and (beside is None or host_of(device.name) == host_of(devices[beside].name))
    ]
    mains = [i for i in here if is_accelerator(devices[i].name)]
    holding = [i for i in mains if i in held]
    usable = [i for i in mains if devices[i].memory != 0]
    hosts = [i for i in here if device_type(devices[i].name) == CPU]
    return next(iter((*holding, *usable, *hosts)), None)


def limits_of(terms: Terms) -> list[int | None]:
    """Return what the largest activations leave of each room, wherever they will be; None is unlimited."""
    peak = max((demand.nbytes for demand in terms.momentary), default=0)
    return [None if room is None else max(0, room - peak) for room in terms.rooms]


def sizes_with_demands(terms: Terms, tree: ModuleTree) -> list[int]:
    """Return the bytes of each tensor, a demand added to the first tensor of what needs it."""
    nbytes = list(tree.nbytes or ())
    for demand in terms.lasting:
        nbytes[demand.tensors.start] += demand.nbytes
    return nbytes


def _unfit(plan: Plan, terms: Terms) -> dict[int, frozenset[int]]:
    """Return by tensor the devices it may not be on: what first fit stores on a host is streamed."""
    hosts = frozenset(i for i, device in enumerate(plan.devices) if not is_accelerator(device.name))
    if not terms.resident or len(hosts) == len(plan.devices):
        return dict(terms.banned)
    tensors = {*terms.banned, *terms.resident}
    return {
        t: terms.banned.get(t, frozenset()) | (hosts if t in terms.resident else frozenset()) for t in tensors
    }

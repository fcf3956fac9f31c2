"""What a line takes and leaves, shown above it: the bytes of its modules, and the room left on its device.

The room is what the ledger of the text leaves: of a complete plan all of it, of an override what is left for
the modules that no line places.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ...ir import Device, ModuleTree, Plan, Unit, human_size
from ...ir.pools import pool_sizes
from ..lines.binding import bind_units, bound_units, with_ties
from ..passes.apply_overrides import merge_override
from ..placing.ledger import keep_books
from .shapes import Lens
from .subject import Subject, read_subject


@dataclass(frozen=True, slots=True)
class _Sums:
    """What the lines of a text come to, by where they start in it."""

    nbytes: Counter[int]
    taken: dict[str, int]
    left: dict[str, int]
    """Bytes of each device that has a limit; negative where more is taken than there is."""


def lenses(text: str, companion: Plan | None = None) -> tuple[Lens, ...]:
    """Return a lens for each line that places something and each that declares a device, in their order.

    Without a model whose tensors have sizes there are none.
    """
    subject = read_subject(text, companion=companion)
    tree = None if subject.base is None else subject.base.tree
    if subject.base is None or tree is None or tree.nbytes is None:
        return ()
    sums = _add_up(_written(subject, subject.base), tree)
    return tuple(sorted(_of_lines(subject, sums), key=lambda each: each.start))


def _written(subject: Subject, base: Plan) -> Plan:
    """Return the lines of a text as they count: a complete plan's alone, others over those of the model."""
    return subject.plan if subject.complete else merge_override(replace(base, units=()), subject.plan)


def _add_up(plan: Plan, tree: ModuleTree) -> _Sums:
    """Account for a text as far as it goes: wrong lines are told elsewhere, and the others still count."""
    placed = [unit for unit in plan.units if unit.store is not None]
    pins = with_ties(bind_units(tree, placed, plan.devices))
    nbytes = Counter[int]()
    for owner, size in zip(pins.owners, tree.nbytes or (), strict=True):
        if owner >= 0:
            nbytes[_start(pins.units[owner])] += size
    known = {device.name for device in plan.devices}
    units = (
        unit for unit in bound_units(pins, plan.constraints) if {unit.store, unit.run or unit.store} <= known
    )
    bound = replace(plan, tree=tree, units=tuple(units))
    taken = {each.device: each.total for each in keep_books(bound, tree).ledger}
    return _Sums(nbytes, taken, dict(_rooms(plan.devices, taken)))


def _rooms(devices: Sequence[Device], taken: dict[str, int]) -> Iterator[tuple[str, int]]:
    """Yield what is left of each budget, and no more than of the memory it shares with other devices."""
    pools = pool_sizes(devices)
    for device in devices:
        size = None if device.pool is None else pools[device.pool]
        shared = sum(taken[each.name] for each in devices if each.pool == device.pool)
        left = [] if device.memory is None else [device.memory - taken[device.name]]
        left += [] if size is None else [size - shared]
        if left:
            yield device.name, min(left)


def _start(unit: Unit) -> int:
    return -1 if unit.span is None else unit.span.start


def _of_lines(subject: Subject, sums: _Sums) -> Iterator[Lens]:
    """Yield the lenses; the many units of one line, and its devices, are in one of them."""
    placed = {_start(unit): unit for unit in subject.plan.units if unit.store is not None}
    for start, unit in placed.items():
        devices = dict.fromkeys(name for name in (unit.store, unit.run) if name)
        words = [human_size(sums.nbytes[start]), *(_left(name, sums) for name in devices)]
        if unit.span is not None:
            yield Lens(start, unit.span.end, " · ".join(filter(None, words)))
    for device in subject.plan.devices:
        if device.span is not None and device.name in sums.taken:
            words = [f"{human_size(sums.taken[device.name])} taken", _left(device.name, sums)]
            yield Lens(device.span.start, device.span.end, " · ".join(filter(None, words)))


def _left(device: str, sums: _Sums) -> str:
    if device not in sums.left:
        return ""
    left = sums.left[device]
    return f"{human_size(left)} left on {device}" if left >= 0 else f"{device} is over by {human_size(-left)}"

"""What it takes to move a unit: what goes along, what a device lacks for it, and the lines that do it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ...grammar import print_plan
from ...grammar.words import path_of, spell_path
from ...ir import (
    Account,
    Device,
    Model,
    Never,
    Plan,
    Unit,
    atomic_modules,
    is_accelerator,
    is_within,
    pool_sizes,
)
from ...ir.patterns import matches
from ...ir.wording import joined_words
from ..placing.terms import terms_of


@dataclass(frozen=True, slots=True)
class Moving:
    """What a unit takes along: all that is tied to it, kept together with it, or never split from those."""

    tensors: frozenset[int]
    weights: int
    """Bytes of them, shared storage once."""
    lasting: int
    """Bytes their demands add where they run."""
    peak: int
    """Bytes of which the device that runs them needs the largest only."""
    banned: frozenset[int]
    """Devices that a rule forbids to one of them."""

    def needs(self, account: Account | None) -> int:
        """Return what a device needs for them beside what it holds."""
        there = 0 if account is None else account.activations
        return self.weights + self.lasting + max(0, self.peak - there)


def moving_with(plan: Plan, unit: Unit) -> Moving:
    """Return what a unit takes along when it gets another place."""
    tree = plan.tree
    if tree is None or tree.nbytes is None:
        return Moving(frozenset(), 0, 0, 0, frozenset())
    terms, tensors = terms_of(plan, tree), set(tree.covered(unit.path))
    whole = [set(tree.tensors(module)) for module in atomic_modules(tree, plan.constraints)]
    before = 0
    while len(tensors) > before:
        before = len(tensors)
        for group in (*terms.groups, *whole):
            if not tensors.isdisjoint(group):
                tensors.update(group)
    return Moving(
        frozenset(tensors),
        sum(tree.nbytes[storage] for storage in {tree.storages[tensor] for tensor in tensors}),
        sum(demand.nbytes for demand in terms.lasting if demand.tensors.start in tensors),
        max((each.nbytes for each in terms.momentary if not tensors.isdisjoint(each.tensors)), default=0),
        frozenset().union(*(terms.banned.get(tensor, ()) for tensor in tensors)),
    )


def shortage(plan: Plan, unit: Unit, device: Device, moving: Moving) -> tuple[int, int] | None:
    """Return what a device and its pool lack to take them, negative where bytes are left; None is unknown."""
    accounts = {account.device: account for account in plan.ledger}
    if device.name not in accounts:
        return None
    account, needed = accounts[device.name], moving.needs(accounts[device.name])
    total = account.total - account.margin + device.margin
    own = -needed if device.memory is None else total - device.memory
    size = pool_sizes(plan.devices).get(device.pool or "")
    if size is None:
        return own + needed, own + needed
    members = [each.name for each in plan.devices if each.pool == device.pool]
    held = sum(accounts[name].total for name in members if name in accounts)
    moved = moving.weights if unit.store in members else 0  # its bytes stay in the same memory
    return own + needed, held + needed - moved - size


def is_named(pattern: str, path: str) -> bool:
    """Say whether a pattern names a path or something above it."""
    return matches(pattern, path) or is_within(path, pattern)


def forbidding(plan: Plan, unit: Unit, device: Device) -> Never | None:
    """Return the line that keeps a unit itself from a device."""
    rules = (rule for rule in plan.constraints if isinstance(rule, Never) and rule.device == device.name)
    return next((rule for rule in rules if is_named(rule.pattern, unit.path)), None)


def lines_that_move(plan: Plan, unit: Unit, moving: Moving) -> str:
    """Return lines for an override file that move the unit, cheapest device first; they are enough."""
    target = spell_path(path_of(unit.path)) if unit.path else "."
    able = [
        (max(0, *lack), max(lack), index, lack)
        for index, device in enumerate(plan.devices)
        if device.name != unit.store
        and is_accelerator(device.name)
        and index not in moving.banned
        and forbidding(plan, unit, device) is None
        and (lack := shortage(plan, unit, device, moving)) is not None
    ]
    if not able:
        return f"`place {target} on DEVICE` in an override file"
    short, _, index, (own, shared) = min(able)
    best = plan.devices[index]
    larger = _larger(plan, best, own, shared) if short else ()
    return joined_words([*larger, f"`place {target} on {best.name}`"]) + " in an override file"


def _larger(plan: Plan, device: Device, own: int, shared: int) -> Iterator[str]:
    """Yield the device lines that give a device, and the pool it belongs to, so many bytes more."""
    memory = device.memory if device.memory is None or own <= 0 else device.memory + own
    size = pool_sizes(plan.devices).get(device.pool or "")
    for each in plan.devices:
        larger = replace(each, memory=memory) if each is device else each
        if each.pool is not None and each.pool == device.pool and size is not None and shared > 0:
            larger = replace(larger, pool_memory=size + shared)
        if larger != each:
            yield f"`{_line(larger)}`"


def _line(device: Device) -> str:
    """Return a device as a line of the language: one in an override replaces it whole."""
    text = print_plan(Plan(Model(""), devices=(device,)))
    return next(line for line in text.splitlines() if line.startswith("device "))

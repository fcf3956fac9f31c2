"""Facts for ``--explain``: why a unit is there, why not on each other device, what would change it.

Read off the plan's own ledger; nothing is solved again, so an answer costs nothing and cannot
contradict the plan.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...ir import Account, Device, ModuleTree, Never, Plan, Reason, Unit, unit_of_tensors
from ...ir.patterns import matches
from .grains import Grain, stream_bytes


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """What keeps a unit off a device: a rule, or the bytes it lacks (0: it would fit)."""

    device: str
    free: int | None
    """Bytes the ledger leaves; None is unlimited."""
    lacks: int
    forbidden: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """The answer about one unit, in bytes."""

    unit: Unit
    nbytes: int
    """What it costs where it is stored."""
    streamed: int
    """What a buffer needs where it runs; 0 for a unit that runs where it is stored."""
    elsewhere: tuple[Elsewhere, ...]
    tied: tuple[str, ...] = ()
    """Paths outside the unit that must go where it goes."""

    @property
    def pinned(self) -> bool:
        """Say whether somebody wrote its place."""
        return self.unit.reason is Reason.WRITTEN

    @property
    def cheapest(self) -> Elsewhere | None:
        """The device with the smallest change that would admit the unit; None if all forbid it."""
        able = [other for other in self.elsewhere if not other.forbidden]
        return min(able, key=lambda other: (other.lacks, other.device), default=None)


def explain_facts(plan: Plan, path: str) -> Facts | None:
    """Return the facts about the unit that holds a path; None when no single unit does."""
    tree = plan.tree
    covered = range(0) if tree is None else tree.covered(path)
    if tree is None or tree.nbytes is None or not covered:
        return None
    owner = unit_of_tensors(tree, plan.units)
    units = {owner[tensor] for tensor in covered}
    if len(units) != 1 or -1 in units:
        return None
    unit = plan.units[units.pop()]
    own = tree.covered(unit.path)
    tied = _tied(tree, own)
    nbytes = sum(tree.nbytes[s] for s in {tree.storages[t] for t in own})
    buffer = stream_bytes(tree, Grain(unit.path, own.start, own.stop)) if unit.store != unit.run else 0
    accounts = {account.device: account for account in plan.ledger}
    others = tuple(
        _elsewhere(plan, unit, device, accounts[device.name], nbytes)
        for device in plan.devices
        if device.name != unit.store and device.name in accounts
    )
    return Facts(unit, nbytes, buffer, others, tied)


def _elsewhere(plan: Plan, unit: Unit, device: Device, account: Account, nbytes: int) -> Elsewhere:
    free = None if device.memory is None else max(0, device.memory - account.total)
    forbidden = any(
        isinstance(rule, Never) and rule.device == device.name and matches(rule.pattern, unit.path)
        for rule in plan.constraints
    )
    return Elsewhere(device.name, free, 0 if free is None else max(0, nbytes - free), forbidden)


def _tied(tree: ModuleTree, own: range) -> tuple[str, ...]:
    storages = {tree.storages[tensor] for tensor in own}
    return tuple(
        tree.tensor_paths[tensor]
        for tensor, storage in enumerate(tree.storages)
        if storage in storages and tensor not in own
    )

"""The ledger: what each device holds, by purpose, from units, demands and reserves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from ...ir import (
    Account,
    Demand,
    Device,
    ModuleTree,
    Plan,
    Role,
    ShortBuffer,
    Unit,
    atomic_modules,
    homes_of,
    unit_of_tensors,
)
from ...ir.purposes import MOMENTARY, PASSING, counts_on, ledger_line
from .grains import ancestors, opened_modules, stream_bytes, walk_grains
from .in_force import in_force
from .in_phases import ALWAYS, Phases
from .ledger_runs import Runs


@dataclass(slots=True)
class _Use:
    """What is on a device while something is in use."""

    kv_cache: int = 0
    activations: int = 0
    moment: int = 0
    """The largest of what is there for a moment only."""
    streamed: int = 0
    """Largest part streamed to this device: what its buffer must hold."""

    @property
    def total(self) -> int:
        return self.kv_cache + self.activations + self.moment + self.streamed

    def beside(self, always: _Use) -> _Use:
        """Return what is there while this is, and what is always in use."""
        return _Use(
            self.kv_cache + always.kv_cache,
            self.activations + always.activations,
            max(self.moment, always.moment),
            max(self.streamed, always.streamed),
        )


@dataclass(slots=True)
class _Sums:
    """The lines of one device while they are added up."""

    weights: int = 0
    buffers: int = 0
    kv_cache: int = 0
    activations: int = 0
    streaming: int = 0
    row_cache: int = 0
    runtime: int = 0
    reserve: int = 0
    uses: dict[int, _Use] = field(default_factory=dict[int, _Use])
    """By phase, what is there while it lasts."""

    def use(self, phase: int) -> _Use:
        """Return the lines of a phase."""
        return self.uses.setdefault(phase, _Use())

    def highest(self, wanted: int | None = None) -> tuple[int, _Use]:
        """Return the phase in which the device holds most, or the one wanted, and what it holds then."""
        always = self.uses.get(ALWAYS, _Use())
        if wanted is not None:
            return wanted, self.uses.get(wanted, _Use()).beside(always)
        phases = {phase: use.beside(always) for phase, use in self.uses.items() if phase != ALWAYS}
        return max(phases.items(), key=lambda item: item[1].total, default=(ALWAYS, always))


@dataclass(frozen=True, slots=True)
class Books:
    """The ledger, and by how much the streaming buffers exceed what is left for them."""

    ledger: tuple[Account, ...]
    short: tuple[ShortBuffer, ...] = field(default=())
    """Devices whose streaming buffer does not fit."""


def keep_books(plan: Plan, tree: ModuleTree, during: str | None = None) -> Books:
    """Return the accounts of a placed plan; of its phases, each device shows the one it holds most in.

    With ``during``, a path, it is the phase that this is in use in.

    The buffer of a device holds one part: the largest legal unit of what is streamed to it. A
    loader that reads ahead does so only into memory that is free.
    """
    sums, lines = _sums(plan, tree), Phases(plan, tree)
    accounts, short = list[Account](), list[ShortBuffer]()
    for device in plan.devices:
        phase, use = sums[device.name].highest(None if during is None else lines.of_path(during))
        account, left = _account(device, sums[device.name], use)
        accounts.append(replace(account, phase=lines.name(phase) if use.total else ""))
        if left is not None and left < use.streamed:
            short.append(ShortBuffer(device.name, use.streamed, left))
    return Books(tuple(accounts), tuple(short))


def _sums(plan: Plan, tree: ModuleTree) -> dict[str, _Sums]:
    sums = {device.name: _Sums() for device in plan.devices}
    owner, phases = unit_of_tensors(tree, plan.units), Phases(plan, tree)
    _add_tensors(plan, tree, owner, sums)
    _add_demands(plan, tree, owner, sums)
    for reserve in plan.reserves:
        if reserve.device in sums:
            _add(sums[reserve.device], reserve.purpose, reserve.nbytes)
    for cache in plan.caches:
        if cache.device in sums:
            sums[cache.device].row_cache += cache.nbytes
    for unit, part, tensors in _streamed_parts(plan, tree, owner):
        use = sums[unit.run or ""].use(phases.of_tensors(tensors))
        use.streamed = max(use.streamed, part)
    return sums


def _streamed_parts(plan: Plan, tree: ModuleTree, owner: list[int]) -> Iterator[tuple[Unit, int, range]]:
    """Yield every part that travels, its bytes and tensors: units are streamed by their smallest legal units.

    What of a whole module is in none of its visited parts travels as one.
    """
    if not any(unit.store != unit.run for unit in plan.units):
        return
    homes = homes_of(tree, plan.units)
    closed = set(atomic_modules(tree, plan.constraints))
    visited = [tree.module_index[plan.units[index].path] for index in homes]
    opened = opened_modules(plan, tree).union(*(ancestors(tree, module) for module in visited))
    hosts, rest = set(homes.values()), dict[int, int]()
    travelling: list[tuple[int, int, range]] = []
    for grain in walk_grains(tree, closed.union(visited), opened):
        index = owner[grain.start]
        if index < 0 or plan.units[index].run is None or plan.units[index].store == plan.units[index].run:
            continue
        if index in hosts:
            rest[index] = rest.get(index, 0) + stream_bytes(tree, grain)
        else:
            travelling.append((index, stream_bytes(tree, grain), range(grain.start, grain.stop)))
    left = ((index, nbytes, tree.covered(plan.units[index].path)) for index, nbytes in rest.items())
    for index, nbytes, tensors in (*left, *travelling):
        yield plan.units[index], nbytes + _meanwhile(plan, homes, rest, index), tensors


def _meanwhile(plan: Plan, homes: dict[int, int], rest: dict[int, int], index: int) -> int:
    """Return what is streamed to the same device while a part is: the rest of every module around it."""
    run, nbytes = plan.units[index].run, 0
    while (index := homes.get(index, -1)) >= 0:
        nbytes += rest.get(index, 0) if plan.units[index].run == run else 0
    return nbytes


def _add_tensors(plan: Plan, tree: ModuleTree, owner: list[int], sums: dict[str, _Sums]) -> None:
    stores = [sums.get(unit.store or "") for unit in plan.units]
    for index, nbytes in zip(owner, _by_role(tree), strict=True):
        line = stores[index] if index >= 0 else None
        if line is not None:
            line.weights += nbytes[0]
            line.buffers += nbytes[1]


def _by_role(tree: ModuleTree) -> Iterator[tuple[int, int]]:
    for role, nbytes in zip(tree.roles, tree.nbytes or (), strict=True):
        yield (nbytes, 0) if role is Role.PARAMETER else (0, nbytes)


def _add_demands(plan: Plan, tree: ModuleTree, owner: list[int], sums: dict[str, _Sums]) -> None:
    runs, phases = Runs(plan, tree, owner), Phases(plan, tree)
    for demand in in_force(plan):
        if demand.purpose not in MOMENTARY:
            line = sums.get(runs.lasting(demand.path) or "")
            if line is not None:
                passing = demand.purpose in PASSING
                _add(
                    line.use(phases.of_path(demand.path)) if passing else line, demand.purpose, demand.nbytes
                )
            continue
        for run in runs.momentary(demand.path):
            line = sums.get(run or "")
            if line is not None and counts_on(demand.purpose, run):
                use = line.use(phases.of_path(demand.path))
                use.moment = max(use.moment, demand.nbytes)


def peak_demand(plan: Plan, tree: ModuleTree, device: str) -> Demand | None:
    """Return the largest of what a device of a placed plan holds for a moment; None for nothing."""
    runs = Runs(plan, tree, unit_of_tensors(tree, plan.units))
    here = [
        demand for demand in in_force(plan)
        if demand.purpose in MOMENTARY and device in runs.momentary(demand.path)
        and counts_on(demand.purpose, device)
    ]  # fmt: skip
    return max(here, key=lambda demand: demand.nbytes, default=None)


def _add(line: _Sums | _Use, purpose: str, nbytes: int) -> None:
    name = ledger_line(purpose)
    setattr(line, name, getattr(line, name) + nbytes)


def _account(device: Device, line: _Sums, use: _Use) -> tuple[Account, int | None]:
    """Return a device's account and what is left for its streaming buffer."""
    account = Account(
        device.name, line.weights, line.buffers, line.kv_cache + use.kv_cache,
        line.activations + use.activations + use.moment, line.streaming, line.row_cache, line.runtime,
        line.reserve, device.margin,
    )  # fmt: skip
    if device.memory is None:
        return replace(account, streaming=account.streaming + use.streamed), None
    if account.total > device.memory and account.total - device.margin <= device.memory:
        account = replace(account, margin=device.memory - (account.total - device.margin))
    left = max(0, device.memory - account.total)
    return replace(account, streaming=account.streaming + min(left, use.streamed)), left

"""The laws that hold for every placed plan: checked after every pass, on every read, in tests.

Each law is a small function from a plan to findings; a plan without a tree is checked as far as
its paths allow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from .changes import line_added, line_removed, line_written
from .coverage import atomic_modules, unit_of_tensors
from .diagnostic import Diagnostic, Label
from .names import CPU, DISK, device_type, host_of, is_device_name
from .plan import Cache, Device, Plan, Reserve, Unit
from .pools import pool_sizes
from .rules.laws import (
    ATOMIC_CUT,
    BUDGET_EXCEEDED,
    DUPLICATE_DEVICE,
    INVALID_PLACEMENT,
    TENSOR_WITHOUT_PLACE,
    TIE_ACROSS_DEVICES,
    UNDECLARED_DEVICE,
)
from .sizes import human_size
from .source import Span
from .tree import ModuleTree
from .visits import never_visited, parts_apart, why_not
from .wording import in_words, listed


def verify(plan: Plan) -> tuple[Diagnostic, ...]:
    """Return every broken law; an empty tuple means the plan is lawful at its stage."""
    found = [*_devices_are_declared_once(plan), *_named_devices_exist(plan), *_places_are_whole(plan)]
    found += [*_links_join_what_is_declared(plan), *_caches_fit(plan)]
    if plan.tree is not None and plan.units and all(_decided(unit, plan.tree) for unit in plan.units):
        owner = unit_of_tensors(plan.tree, plan.units)
        found += _every_tensor_has_a_place(plan.tree, owner)
        found += _ties_share_a_device(plan, plan.tree, owner)
        found += _atomic_modules_are_whole(plan, plan.tree, owner)
    found += _ledgers_fit(plan)
    return tuple(found)


def _decided(unit: Unit, tree: ModuleTree) -> bool:
    """Say whether a unit has a place and no wildcard: those are bound before they can be judged."""
    return unit.store is not None and ("*" not in unit.path or bool(tree.covered(unit.path)))


def _label(span: Span | None, text: str) -> Label | None:
    return None if span is None else Label(span, text)


def _devices_are_declared_once(plan: Plan) -> Iterator[Diagnostic]:
    declared: dict[str, list[Device]] = {}
    for device in plan.devices:
        declared.setdefault(device.name, []).append(device)
    for name, same in declared.items():
        if len(same) > 1:
            message = f"device `{name}` is declared {len(same)} times"
            yield Diagnostic(
                DUPLICATE_DEVICE,
                message,
                _label(same[-1].span, "declared again"),
                help="keep one line",
                about=name,
                fixes=line_removed(*(device.span for device in same)),
            )


def _named_devices_exist(plan: Plan) -> Iterator[Diagnostic]:
    declared = {device.name for device in plan.devices}
    named: list[tuple[str, Unit | Reserve | Cache]] = [(reserve.device, reserve) for reserve in plan.reserves]
    named += [(cache.device, cache) for cache in plan.caches]
    named += [(name, unit) for unit in plan.units for name in (unit.store, unit.run) if name]
    seen: set[str] = set()
    known = in_words(sorted(declared))
    for name, node in named:
        if name not in declared and name not in seen:
            seen.add(name)
            yield Diagnostic(
                UNDECLARED_DEVICE,
                f"no device is named `{name}`",
                _label(node.span, "not declared"),
                notes=(f"declared here: {known}",),
                help=f"add `device {name} memory 10GiB`, or name a declared device",
                about=name,
                fixes=line_added(f"device {name} memory 10GiB"),
            )


def _places_are_whole(plan: Plan) -> Iterator[Diagnostic]:
    for unit in plan.units:
        if (unit.store is None) != (unit.run is None):
            message = f"`{unit.path}` has only one of its two devices"
        elif unit.run is not None and device_type(unit.run) == DISK:
            message = f"`{unit.path}` cannot run on `{unit.run}`"
        elif unit.run is not None and host_of(unit.run) != host_of(unit.store or unit.run):
            yield _weights_on_the_way(unit, unit.run)
            continue
        elif unit.by_rows and unit.store == unit.run:
            yield _rows_that_do_not_travel(unit)
            continue
        else:
            continue
        line = f"place {unit.path or '.'} on {unit.store or CPU} run on cpu"
        yield Diagnostic(
            INVALID_PLACEMENT,
            message,
            _label(unit.span, "here"),
            help=f"write `{line}`",
            about=unit.path,
            fixes=line_written(unit.span, line),
        )


def _weights_on_the_way(unit: Unit, run: str) -> Diagnostic:
    """Report weights on another host than what computes with them: every call would wait for the network."""
    line = f"place {unit.path or '.'} on {host_of(run)}/{CPU} run on {run}".replace(" /", " ")
    return Diagnostic(
        INVALID_PLACEMENT,
        f"`{unit.path}` is stored on `{unit.store}` and runs on `{run}`, another host",
        _label(unit.span, "here"),
        notes=("between hosts results travel, never weights",),
        help=f"write `{line}`",
        about=unit.path,
        fixes=line_written(unit.span, line),
    )


def _rows_that_do_not_travel(unit: Unit) -> Diagnostic:
    place = f"place {unit.path or '.'} on {unit.store or CPU}"
    return Diagnostic(
        INVALID_PLACEMENT,
        f"`{unit.path}` is not streamed, so no rows of it travel",
        _label(unit.span, "here"),
        help=f"write `{place} run on cuda:0 by rows`, or leave `by rows` out",
        about=unit.path,
        fixes=line_written(unit.span, place),
    )


def _links_join_what_is_declared(plan: Plan) -> Iterator[Diagnostic]:
    declared = {device.name for device in plan.devices}
    known = declared | {host_of(name) for name in declared} - {""}
    seen: set[str] = set()
    for link in plan.links:
        for name in (link.a, link.b):
            if name in known or name in seen:
                continue
            seen.add(name)
            yield Diagnostic(
                UNDECLARED_DEVICE,
                f"no device or host is named `{name}`",
                _label(link.span, "not declared"),
                notes=(f"declared here: {in_words(sorted(known))}",),
                help=f"add a `device` line for it, as `device {_device_at(name)} memory 10GiB`",
                about=name,
                fixes=line_added(f"device {_device_at(name)} memory 10GiB"),
            )
        if link.a == link.b:
            yield Diagnostic(
                INVALID_PLACEMENT,
                f"a link joins `{link.a}` with itself",
                _label(link.span, "here"),
                help="name two devices, or two hosts",
                about=link.a,
                fixes=line_removed(link.span),
            )


def _device_at(name: str) -> str:
    return name if is_device_name(name) else f"{name}/cuda:0"


def _caches_fit(plan: Plan) -> Iterator[Diagnostic]:
    """Say which device is asked for more cache than it has: without a ledger nothing else would."""
    total = Counter[str]()
    for cache in plan.caches:
        total[cache.device] += cache.nbytes
    booked = {account.device for account in plan.ledger}
    last = {cache.device: cache for cache in plan.caches}
    for device in plan.devices:
        used, room = total[device.name], device.memory
        if room is not None and used > room and device.name not in booked:
            yield _over(f"`{device.name}`", used, room, _label(last[device.name].span, "this cache"))


def _every_tensor_has_a_place(tree: ModuleTree, owner: list[int]) -> Iterator[Diagnostic]:
    missing = [tree.tensor_paths[i] for i, unit in enumerate(owner) if unit < 0]
    if missing:
        parents = {path.rpartition(".")[0] for path in missing}
        message = f"{len(missing)} of {len(owner)} tensors have no place: {in_words(missing, 3)}"
        target = min(parents) or missing[0]
        yield Diagnostic(
            TENSOR_WITHOUT_PLACE, message, help=f"add a line `place {target} on DEVICE`", about=target
        )


def _ties_share_a_device(plan: Plan, tree: ModuleTree, owner: list[int]) -> Iterator[Diagnostic]:
    for tie in plan.ties:
        placed = {plan.units[owner[index]].store: path for path in tie.tensors
                  if (index := tree.tensor_index.get(path)) is not None and owner[index] >= 0}  # fmt: skip
        if len(placed) > 1:
            places = listed([f"`{path}` on {device}" for device, path in placed.items()])
            yield Diagnostic(
                TIE_ACROSS_DEVICES,
                f"`{tie.tensors[0]}` and what is tied to it are on different devices",
                _label(tie.span, "tied here"),
                notes=(places,),
                help=f"place all of them on {next(iter(placed))}",
                about=tie.tensors[0],
            )


def _atomic_modules_are_whole(plan: Plan, tree: ModuleTree, owner: list[int]) -> Iterator[Diagnostic]:
    units = plan.units
    for rule in plan.constraints:
        for module in atomic_modules(tree, (rule,)):
            inside = set(owner[tree.first_tensors[module] : tree.first_tensors[tree.ends[module]]]) - {-1}
            if len({(units[unit].store, units[unit].run) for unit in inside}) < 2:
                continue
            banned = never_visited(tree, plan.constraints)
            cut = next(
                (part for part in parts_apart(tree, module, owner, units, banned) if not part.legal), None
            )
            if cut is None:
                continue
            path, stores = tree.paths[module], [*dict.fromkeys(units[unit].store for unit in sorted(inside))]
            yield Diagnostic(
                ATOMIC_CUT,
                f"{f'`{path}`' if path else 'the model'} is never split and has more than one place",
                _label(rule.span, "never split"),
                notes=(
                    f"parts of it are on {in_words(stores)}",
                    f"`{cut.path}` cannot be visited: {why_not(tree, cut.path)}",
                ),
                help=f"write `place {path or '.'} on {stores[0]}` in place of its parts",
                about=path,
            )
            return


def _ledgers_fit(plan: Plan) -> Iterator[Diagnostic]:
    totals = {account.device: account.total for account in plan.ledger}
    pools: dict[str, int] = {}
    for device in plan.devices:
        used = totals.get(device.name, 0)
        if device.memory is not None and used > device.memory:
            yield _over(f"`{device.name}`", used, device.memory, _label(device.span, "this budget"))
        if device.pool is not None:
            pools[device.pool] = pools.get(device.pool, 0) + used
    for pool, size in pool_sizes(plan.devices).items():
        if size is not None and pools[pool] > size:
            yield _over(f"pool `{pool}`", pools[pool], size, None)


def _over(what: str, used: int, limit: int, at: Label | None) -> Diagnostic:
    return Diagnostic(
        BUDGET_EXCEEDED,
        f"{what} holds {human_size(used)} but has {human_size(limit)}",
        at,
        notes=(f"{used} > {limit} bytes, {human_size(used - limit)} too much",),
        help=f"move {human_size(used - limit)} elsewhere, or raise the budget",
    )

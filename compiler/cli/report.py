"""What the terminal shows of a plan: a block per device with a bar, and the same as JSON.

Every number comes from the plan's own ledger; where a budget came from is said beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from ...backends.predictions import predicted_text
from ...grammar.ranges import fold_paths
from ...ir import Account, Device, Plan, Unit, human_size, is_accelerator
from ...ir.visible import visible
from .render import as_data, in_order
from .terminal import DEFAULT_WIDTH, Line, cell_width, clip, wrap

_LEDGER: Final = tuple(line.name for line in fields(Account) if line.name != "device")
_SHOWN_LINES: Final = 4
"""Lines of what is on one device before the rest is counted only."""
_FULL: Final = 0.95


@dataclass(frozen=True, slots=True)
class Bars:
    """The characters of a bar: own bytes of the model, other ledger lines, free."""

    stored: str = "█"
    kept: str = "▒"
    free: str = "░"


BLOCKS: Final = Bars()
ASCII: Final = Bars("#", "+", ".")


def report(plan: Plan, *, width: int | None, unfold: bool = False, bars: Bars = BLOCKS) -> Iterator[Line]:
    """Return the lines for people: the model, then a block per device."""
    width = width or DEFAULT_WIDTH
    yield from _headline(plan, width)
    yield []
    accounts = {account.device: account for account in plan.ledger}
    names = max((cell_width(device.name) for device in plan.devices), default=0)
    used = {device.name: _used(device, accounts.get(device.name)) for device in plan.devices}
    column = max((len(text) for text in used.values()), default=0)
    for device in plan.devices:
        account = accounts.get(device.name)
        head = f"{device.name:<{names}}  {used[device.name]:<{column}}"
        yield [("bold", head[:names]), ("", head[names:]), *_bar(device, account, width - len(head), bars)]
        for text in _details(plan, device, account, width - names - 2, unfold=unfold):
            yield [("", " " * (names + 2)), ("", text)]


def _headline(plan: Plan, width: int) -> Iterator[Line]:
    name = clip(visible(plan.model.name), width // 2)
    facts = []
    if plan.tree is not None and plan.tree.nbytes is not None:
        facts.append(
            f"{human_size(sum(plan.tree.nbytes))} in {_counted(len(plan.tree.tensor_names), 'tensor')}"
        )
    busy = {unit.store for unit in plan.units if unit.store is not None}
    facts.append(f"on {_counted(len(busy), 'device')}")
    facts += _spilled(plan)
    facts += _outcome(plan)
    lines = wrap(f"{name}: {', '.join(facts)}", width, 0)
    yield [("bold", name), ("", lines[0].removeprefix(name))]
    yield from ([("", line)] for line in lines[1:])
    if plan.outcome is not None and plan.outcome.predicted is not None:
        yield from ([("", line)] for line in wrap(predicted_text(plan.outcome.predicted), width, 0))


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _spilled(plan: Plan) -> list[str]:
    if not any(is_accelerator(device.name) for device in plan.devices):
        return []
    off = [unit for unit in plan.units if unit.store is not None and not is_accelerator(unit.store)]
    if not off:
        return []
    sizes = [nbytes for unit in off if (nbytes := unit_bytes(plan, unit)) is not None]
    what = human_size(sum(sizes)) if len(sizes) == len(off) else _counted(len(off), "unit")
    return [f"{what} off the accelerators"]


def _outcome(plan: Plan) -> list[str]:
    if plan.outcome is None:
        return []
    match plan.outcome.status:
        case "optimal":
            return [f"{plan.outcome.objective}: proven best"]
        case "unproven" if plan.outcome.objective == "accelerator-bytes":
            return [f"{plan.outcome.objective}: within {plan.outcome.gap:.1%} of the bound"]
        case _:
            return []


def unit_bytes(plan: Plan, unit: Unit) -> int | None:
    """Return the bytes a unit costs where it is stored; None when the plan does not know."""
    if plan.tree is None or plan.tree.nbytes is None:
        return None
    covered = plan.tree.covered(unit.path)
    prefix = plan.tree.prefix_bytes
    return prefix[covered.stop] - prefix[covered.start]


def _used(device: Device, account: Account | None) -> str:
    total = "?" if account is None else human_size(account.total)
    return total if device.memory is None else f"{total} of {human_size(device.memory)}"


def _bar(device: Device, account: Account | None, room: int, bars: Bars) -> Line:
    if not device.memory or account is None:
        return []
    tail = f" {account.total / device.memory:>4.0%}  {human_size(device.memory - account.total)} free"
    cells = min(30, max(8, room - 2 - len(" 100%  1023.9GiB free")))
    stored = round((account.weights + account.buffers) / device.memory * cells)
    filled = min(cells, max(stored, round(account.total / device.memory * cells)))
    style = "yellow" if account.total > _FULL * device.memory else "green"
    return [
        ("", "  "),
        (style, bars.stored * stored),
        ("cyan", bars.kept * (filled - stored)),
        ("dim", bars.free * (cells - filled)),
        ("", tail),
    ]


def _details(
    plan: Plan, device: Device, account: Account | None, width: int, *, unfold: bool
) -> Iterator[str]:
    facts = "; ".join(_budget_facts(device, account))
    yield from wrap(facts, width, 0) if facts else ()
    contents = "; ".join(_contents(plan, device))
    lines = wrap(contents or "nothing is on it", width, 0)
    yield from lines if unfold else lines[:_SHOWN_LINES]
    if not unfold and len(lines) > _SHOWN_LINES:
        hidden = sum(line.count(",") + 1 for line in lines[_SHOWN_LINES:])
        yield f"and about {hidden:,} more; `--all` shows them"


def _budget_facts(device: Device, account: Account | None) -> Iterator[str]:
    if device.origin:
        yield f"budget {visible(device.origin)}"
    if device.at is not None:
        yield f"in {visible(device.at)}"
    if device.pool is not None:
        yield f"shares memory with pool {visible(device.pool)}"
    filled = [] if account is None else [line for line in _LEDGER if getattr(account, line)]
    if filled:
        amounts = (f"{line.replace('_', ' ')} {human_size(getattr(account, line))}" for line in filled)
        yield " + ".join(amounts)


def _contents(plan: Plan, device: Device) -> Iterator[str]:
    by_run: dict[str | None, list[str]] = {}
    for unit in plan.units:
        if unit.store == device.name:
            by_run.setdefault(unit.run, []).append(unit.path)
    for run, paths in by_run.items():
        suffix = "" if run in {None, device.name} else f" run on {run}"
        patterns = (visible(each.path.text) for each in fold_paths(paths, ordered=False))
        yield ", ".join(pattern or "the whole model" for pattern in patterns) + suffix


def report_data(plan: Plan) -> dict[str, Any]:
    """Return the plan's summary as what JSON can hold; sizes are bytes."""
    accounts = {account.device: account for account in plan.ledger}
    return {
        "model": {"name": plan.model.name, "digest": plan.model.digest},
        "options": dict(plan.options),
        "outcome": None if plan.outcome is None else _outcome_data(plan),
        "devices": [_device_data(device, accounts.get(device.name)) for device in plan.devices],
        "units": [_unit_data(plan, unit) for unit in plan.units],
        "ties": [list(tie.tensors) for tie in plan.ties],
        "diagnostics": [as_data(diagnostic) for diagnostic in in_order(plan.diagnostics)],
    }


def _outcome_data(plan: Plan) -> dict[str, Any]:
    assert plan.outcome is not None  # noqa: S101  # the caller asked
    kept: Sequence[str] = ("objective", "value", "bound", "gap", "status", "hops")
    told = plan.outcome.predicted
    predicted = {} if told is None else {"predicted": asdict(told)}
    return {**{name: getattr(plan.outcome, name) for name in kept}, **predicted}


def _device_data(device: Device, account: Account | None) -> dict[str, Any]:
    return {
        "name": device.name,
        "memory": device.memory,
        "origin": device.origin,
        "used": None if account is None else account.total,
        "free": None if account is None or device.memory is None else device.memory - account.total,
        "ledger": None if account is None else {line: getattr(account, line) for line in _LEDGER},
    }


def _unit_data(plan: Plan, unit: Unit) -> dict[str, Any]:
    return {
        "path": unit.path,
        "store": unit.store,
        "run": unit.run,
        "reason": None if unit.reason is None else str(unit.reason),
        "nbytes": unit_bytes(plan, unit),
    }

"""What the terminal shows of a plan: a block per device with a bar, and the same as JSON.

Every number comes from the plan's own ledger; where a budget came from is said beside it. However many
devices and layers there are, it fits a screen: the more devices, the fewer lines each of them has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from ...backends.predictions import counted_workload, predicted_text, workload_text
from ...ir import Account, Device, Plan, Workload, human_size, is_accelerator
from ...ir.purposes import LEDGER_LINES
from ...ir.rules.searching import SPILL
from ...ir.visible import visible
from ..placing.tiers import pinned_bytes
from .contents import Contents, unit_sizes
from .render import as_data, by_place
from .terminal import DEFAULT_WIDTH, Line, cell_width, clip, wrap

_SCREEN: Final = 20
"""Lines for all devices together; two lines above, two below and a warning are beside them."""
_SHOWN_LINES: Final = 4
"""Lines of what is on one device where there is room for them."""
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
    """Return the lines for people: the model, a block per device, what would help most."""
    width = width or DEFAULT_WIDTH
    contents = Contents(plan)
    yield from _headline(plan, contents, width)
    yield []
    accounts = {account.device: account for account in plan.ledger}
    names = max((cell_width(device.name) for device in plan.devices), default=0)
    used = {device.name: _used(device, accounts.get(device.name)) for device in plan.devices}
    column = max((len(text) for text in used.values()), default=0)
    lines = None if unfold else max(0, _SCREEN // max(1, len(plan.devices)) - 1)
    for device in plan.devices:
        account = accounts.get(device.name)
        head = f"{device.name:<{names}}  {used[device.name]:<{column}}"
        yield [("bold", head[:names]), ("", head[names:]), *_bar(device, account, width - len(head), bars)]
        for text in _details(device, account, contents, width - names - 2, lines):
            yield [("", " " * (names + 2)), ("", text)]
    yield from _advice(plan, width)


def _advice(plan: Plan, width: int) -> Iterator[Line]:
    """Yield the one change that would help most: what avoids the spill, the easiest way first."""
    ways = next((each.help for each in plan.diagnostics if each.rule is SPILL and each.help), None)
    if ways is not None:
        yield []
        yield from ([("", line)] for line in wrap(f"helps most: {ways.splitlines()[0]}", width, 0))


def _headline(plan: Plan, contents: Contents, width: int) -> Iterator[Line]:
    name = clip(visible(plan.model.name), width // 2)
    facts = []
    if plan.tree is not None and plan.tree.nbytes is not None:
        facts.append(
            f"{human_size(sum(plan.tree.nbytes))} in {_counted(len(plan.tree.tensor_names), 'tensor')}"
        )
    busy = {unit.store for unit in plan.units if unit.store is not None}
    facts.append(f"on {_counted(len(busy), 'device')}")
    facts += _spilled(plan, contents)
    facts += _outcome(plan)
    lines = wrap(f"{name}: {', '.join(facts)}", width, 0)
    yield [("bold", name), ("", lines[0].removeprefix(name))]
    yield from ([("", line)] for line in lines[1:])
    work = counted_workload(plan)
    if work is not None:
        yield from ([("", line)] for line in wrap(workload_text(work), width, 0))
    if plan.outcome is not None and plan.outcome.predicted is not None:
        yield from ([("", line)] for line in wrap(predicted_text(plan.outcome.predicted), width, 0))


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _spilled(plan: Plan, contents: Contents) -> list[str]:
    mains = frozenset(device.name for device in plan.devices if is_accelerator(device.name))
    count, nbytes = contents.off_accelerators(mains) if mains else (0, 0)
    if not count:
        return []
    what = _counted(count, "unit") if nbytes is None else human_size(nbytes)
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
    device: Device, account: Account | None, contents: Contents, width: int, lines: int | None
) -> Iterator[str]:
    """Yield the ledger and what is stored there, in so many lines; what is cut off is counted."""
    facts = "; ".join(_budget_facts(device, account))
    budget = wrap(facts, width, 0) if facts else []
    words = list(contents.words(device.name))
    stored = wrap("; ".join(words) or "nothing is on it", width, 0)
    if lines is None:
        yield from (*budget, *stored)
        return
    if lines > len(budget):
        yield from budget
        lines -= len(budget)
    yield from _cut(stored, min(lines, _SHOWN_LINES), width)


def _cut(stored: list[str], lines: int, width: int) -> list[str]:
    """Return the first lines, the last of them ended by how many patterns are left out."""
    if len(stored) <= lines or not lines:
        return stored[:lines]
    shown = stored[:lines]
    rest = " ".join(stored)[len(" ".join(shown)) :]
    more = f" … {rest.count(',') + rest.count(';') + 1} more with --all"
    while cell_width(shown[-1]) + len(more) > width and "," in shown[-1]:
        shown[-1] = shown[-1].rstrip(", ").rpartition(",")[0] + ","
        more = f" … {_parts(' '.join(stored)) - _parts(' '.join(shown)) + 1} more with --all"
    return [*shown[:-1], clip(shown[-1], max(1, width - len(more))) + more]


def _parts(text: str) -> int:
    """Return how many patterns a list has; commas within braces are no end of one."""
    depth, count = 0, 1
    for char in text:
        depth += (char == "{") - (char == "}")
        count += char in ",;" and not depth
    return count


def _budget_facts(device: Device, account: Account | None) -> Iterator[str]:
    if device.origin and device.origin != "given":
        yield f"budget {visible(device.origin)}"
    if device.at is not None:
        yield f"in {visible(device.at)}"
    if device.pool is not None:
        yield f"shares memory with pool {visible(device.pool)}"
    filled = [] if account is None else [line for line in LEDGER_LINES if getattr(account, line)]
    if filled:
        amounts = (f"{line.replace('_', ' ')} {human_size(getattr(account, line))}" for line in filled)
        yield " + ".join(amounts)
    if account is not None and account.phase:
        yield f"most while {visible(account.phase)} is in use"


def report_data(plan: Plan) -> dict[str, Any]:
    """Return the plan's summary as what JSON can hold; sizes are bytes."""
    accounts = {account.device: account for account in plan.ledger}
    pinned = pinned_bytes(plan)
    return {
        "model": {"name": plan.model.name, "digest": plan.model.digest},
        "options": dict(plan.options),
        "workload": None if plan.workload is None else _workload_data(plan.workload),
        "outcome": None if plan.outcome is None else _outcome_data(plan),
        "devices": [
            _device_data(device, accounts.get(device.name), pinned.get(device.name, 0))
            for device in plan.devices
        ],
        "units": _units_data(plan),
        "ties": [list(tie.tensors) for tie in plan.ties],
        "diagnostics": [as_data(diagnostic) for diagnostic in by_place(plan.diagnostics)],
    }


def _workload_data(work: Workload) -> dict[str, Any]:
    told = {name: getattr(work, name) for name in ("kind", "rows", "prompt", "tokens")}
    return {**told, "assumed": work.added}


def _outcome_data(plan: Plan) -> dict[str, Any]:
    assert plan.outcome is not None  # noqa: S101  # the caller asked
    kept: Sequence[str] = ("objective", "value", "bound", "gap", "status", "hops")
    told = plan.outcome.predicted
    predicted = {} if told is None else {"predicted": asdict(told)}
    return {**{name: getattr(plan.outcome, name) for name in kept}, **predicted}


def _device_data(device: Device, account: Account | None, pinned: int) -> dict[str, Any]:
    return {
        "name": device.name,
        "memory": device.memory,
        "origin": device.origin,
        "used": None if account is None else account.total,
        "free": None if account is None or device.memory is None else device.memory - account.total,
        "ledger": None if account is None else {line: getattr(account, line) for line in LEDGER_LINES},
        "pinned": pinned,
        **({"phase": account.phase} if account is not None and account.phase else {}),
    }


def _units_data(plan: Plan) -> list[dict[str, Any]]:
    sizes: Sequence[int | None] = unit_sizes(plan) or [None] * len(plan.units)
    return [
        {
            "path": unit.path,
            "store": unit.store,
            "run": unit.run,
            "reason": None if unit.reason is None else str(unit.reason),
            "nbytes": nbytes,
        }
        for unit, nbytes in zip(plan.units, sizes, strict=True)
    ]

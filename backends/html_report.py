"""A plan as one HTML page for people: ledgers, a map of the model, places with reasons, warnings.

The page fetches nothing and runs nothing; everything that comes from a plan is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from itertools import cycle, groupby

from ..grammar.path_sets import fold_set
from ..ir import (
    CPU,
    DISK,
    Account,
    Atomic,
    Device,
    Diagnostic,
    Never,
    Plan,
    Split,
    device_type,
    human_size,
)
from ..ir.visible import visible
from .html_style import CPU_COLOUR, DISK_COLOUR, PALETTE, STYLE
from .predictions import predicted_text, timed_text
from .report_data import Cell, Facts, Row, describe_cell, in_rows

_MAP_HEIGHT = 380
_MOST_ROWS = 400
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_LINES = (
    ("weights", ""),
    ("buffers", "#7fb8d8"),
    ("kv_cache", "#b48ad8"),
    ("activations", "#e3b23c"),
    ("streaming", "#35b0a8"),
    ("row_cache", "#2f7f9e"),
    ("runtime", "#8c6d5a"),
    ("reserve", "#a3abb8"),
    ("margin", "#c9ced6"),
)


def emit_report(plan: Plan) -> bytes:
    """Write the report; equal plans give equal pages."""
    facts = Facts(plan)
    colours = _colours(plan)
    name = _text(plan.model.name or "unnamed model")
    parts = [
        f"<h1>{name}</h1>",
        _subtitle(plan),
        _headline(facts),
        *map(_diagnostic, plan.diagnostics),
        _devices(facts, colours),
        _map(facts, colours),
        _places(facts, colours),
        _settings(plan),
        "<footer>made by compile-plan</footer>",
    ]
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{name} - placement plan</title><style>{STYLE}</style>"
    )
    body = "\n".join(part for part in parts if part)
    page = (
        f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body><main>\n{body}\n</main></body></html>\n'
    )
    return page.encode("utf-8", "backslashreplace")


def _text(text: str) -> str:
    """Return text of others as it may stand in a page: no tags, and nothing that hides or steers."""
    return escape(visible(text))


def _colours(plan: Plan) -> dict[str, str]:
    """Give every device a colour: bright ones to accelerators, greys to cpu and disk."""
    named = [device.name for device in plan.devices]
    named += [name for unit in plan.units for name in (unit.store, unit.run) if name]
    grey = {CPU: CPU_COLOUR, DISK: DISK_COLOUR}
    bright = cycle(PALETTE)
    return {name: grey.get(device_type(name)) or next(bright) for name in dict.fromkeys(named)}


def _subtitle(plan: Plan) -> str:
    digest = f" · digest <code>{_text(plan.model.digest)}</code>" if plan.model.digest else ""
    return f'<p class="sub">placement plan{digest}</p>'


def _headline(facts: Facts) -> str:
    plan, tree = facts.plan, facts.plan.tree
    shown: list[tuple[str, str]] = []
    if facts.unit_bytes is not None:
        shown.append((human_size(sum(facts.unit_bytes)), "weights and buffers"))
    if tree is not None:
        shown += [(f"{len(tree):,}", "modules"), (f"{len(tree.tensor_names):,}", "tensors")]
    shown.append((f"{len({unit.store for unit in plan.units if unit.store}):,}", "devices in use"))
    streamed = [i for i, unit in enumerate(plan.units) if unit.store and unit.run not in {unit.store, None}]
    if streamed and facts.unit_bytes is not None:
        shown.append((human_size(sum(facts.unit_bytes[i] for i in streamed)), "streamed from cpu or disk"))
    if plan.outcome is not None:
        outcome = plan.outcome
        shown.append((outcome.status, f"{outcome.objective}, gap {outcome.gap:.1%}, {outcome.hops} hops"))
        if outcome.predicted is not None and outcome.predicted.token:
            shown.append((timed_text(outcome.predicted.token), "a token, predicted"))
    cards = "".join(
        f'<div class="fact"><b>{_text(value)}</b><span>{_text(what)}</span></div>' for value, what in shown
    )
    return f'<div class="facts">{cards}</div>'


def _diagnostic(found: Diagnostic) -> str:
    extra = "".join(f"<div>{_text(note)}</div>" for note in found.notes)
    if found.help:
        extra += f"<div>help: {_text(found.help)}</div>"
    head = f"<code>{found.severity}[{_text(found.code)}]</code> <b>{_text(found.message)}</b>"
    return f'<div class="note {found.severity}">{head}{extra}</div>'


def _devices(facts: Facts, colours: dict[str, str]) -> str:
    accounts = facts.accounts()
    widest = max((account.total for account in accounts.values()), default=0)
    cards = "".join(
        _device(device, accounts.get(device.name, Account(device.name)), colours[device.name], widest)
        for device in facts.plan.devices
    )
    return f'<h2>Devices</h2>\n<div class="devices">{cards}</div>' if cards else ""


def _device(device: Device, account: Account, colour: str, widest: int) -> str:
    scale = device.memory if device.memory is not None else widest
    bars, parts = [], []
    for line, own in _LINES:
        nbytes = getattr(account, line)
        if nbytes:
            shade = own or colour
            share = min(100.0, 100 * nbytes / max(scale, 1))
            bars.append(f'<i style="width:{share:.3f}%;background:{shade}"></i>')
            label = f"{line.replace('_', ' ')} {human_size(nbytes)}"
            parts.append(f'<span><i class="dot" style="background:{shade}"></i>{label}</span>')
    if device.memory is None:
        budget = f"{human_size(account.total)}, no limit"
    else:
        budget = f"{human_size(account.total)} of {human_size(device.memory)}"
        parts.append(f"<span>free {human_size(device.memory - account.total)}</span>")
    notes = [*([device.origin] if device.origin else []), *([f"at {device.at}"] if device.at else [])]
    notes += [f"pool {device.pool}"] if device.pool else []
    origin = f"<br>{_text(', '.join(notes))}" if notes else ""
    return (
        f'<section class="device"><header><b><i class="dot" style="background:{colour}"></i>'
        f"{_text(device.name)}</b><span>{budget}{origin}</span></header>"
        f'<div class="bar">{"".join(bars)}</div><div class="parts">{"".join(parts)}</div></section>'
    )


def _map(facts: Facts, colours: dict[str, str]) -> str:
    cells = facts.cells()
    total = sum(cell.nbytes for cell in cells)
    if not total:
        return ""
    rows = []
    for row in in_rows(cells):
        nbytes = sum(cell.nbytes for cell in row)
        height = max(30.0, _MAP_HEIGHT * nbytes / total)
        blocks = "".join(_cell(cell, colours, nbytes) for cell in row)
        rows.append(f'<div class="row" style="height:{height:.0f}px">{blocks}')
    stores = {store for cell in cells for store, _, _ in cell.shares}
    used = [name for name in colours if name in stores]
    legend = "".join(
        f'<span><i class="dot" style="background:{colours.get(name, "#000")}"></i>{_text(name)}</span>'
        for name in used
    )
    return (
        f'<h2>Map of the model, in order, by bytes</h2>\n<div class="legend">{legend}'
        "<span>stripes: stored here, run elsewhere</span></div>\n"
        f'<div class="map">{"</div>".join(rows)}</div></div>'
    )


def _cell(cell: Cell, colours: dict[str, str], row_bytes: int) -> str:
    stops, stripes, start = [], [], 0
    for store, run, size in cell.shares:
        end = start + size
        at = f"{100 * start / cell.nbytes:.2f}% {100 * end / cell.nbytes:.2f}%"
        stops.append(f"{colours.get(store, '#000')} {at}")
        if run not in {store, ""}:
            stripes.append(_stripes(start / cell.nbytes, size / cell.nbytes))
        start = end
    stops = stops or ["#000 0% 100%"]
    paint = ",".join([*stripes, f"linear-gradient(90deg,{','.join(stops)})"])
    text = (
        f"{_text(_short(cell.path))}<small>{human_size(cell.nbytes)}</small>"
        if 40 * cell.nbytes > row_bytes
        else ""
    )
    return (
        f'<div class="cell" style="flex:{cell.nbytes} 0 0;background:{paint}" '
        f'title="{_text(describe_cell(cell))}">{text}</div>'
    )


def _short(path: str) -> str:
    """Return the end of a path that tells it from its neighbours: ``layers.3``, ``3.mlp.gate``, ``head``."""
    names = path.split(".")
    number = max((at for at, name in enumerate(names) if name.isdigit()), default=len(names) - 1)
    start = number - 1 if 0 < number == len(names) - 1 and names[number].isdigit() else number
    return ".".join(names[start:])


def _stripes(start: float, share: float) -> str:
    """Return a striped background for a part of a cell; CSS places it relative to what is left free."""
    place = 100 * start / (1 - share) if share < 1 else 0.0
    lines = "repeating-linear-gradient(135deg,rgb(255 255 255/22%) 0 5px,transparent 5px 11px)"
    return f"{lines} {place:.2f}% 0/{100 * share:.2f}% 100% no-repeat"


def _places(facts: Facts, colours: dict[str, str]) -> str:
    rows = facts.rows()
    stores = [store for store in dict.fromkeys([*colours, *rows]) if store in rows]
    tables = [_table(store, rows[store], colours.get(store, "#000")) for store in stores]
    return "<h2>Places</h2>\n" + "\n".join(tables) if tables else ""


def _table(store: str, rows: list[Row], colour: str) -> str:
    units = sum(row.count for row in rows)
    known = [row.nbytes * row.count for row in rows if row.nbytes is not None]
    size = f", {human_size(sum(known))}" if known else ""
    lines = "".join(_row(row, store) for row in rows[:_MOST_ROWS])
    if len(rows) > _MOST_ROWS:
        lines += f'<tr><td colspan="5">and {len(rows) - _MOST_ROWS:,} more lines</td></tr>'
    plural = "unit" if units == 1 else "units"
    return (
        f"<details{' open' if len(rows) <= 40 else ''}><summary>"
        f'<i class="dot" style="background:{colour}"></i>'
        f"{_text(store or 'not placed')}<span>{units:,} {plural}{size}</span></summary>\n"
        '<table class="units"><tr><th>unit</th><th class="num">count</th><th class="num">each</th>'
        f"<th>runs on</th><th>reason</th></tr>{lines}</table></details>"
    )


def _row(row: Row, store: str) -> str:
    size = "" if row.nbytes is None else human_size(row.nbytes)
    run = "" if row.run == store else row.run
    return (
        f"<tr><td><code>{_text(row.pattern or 'the whole model')}</code></td>"
        f'<td class="num">{row.count:,}</td><td class="num">{size}</td>'
        f"<td>{_text(run)}</td><td>{_text(row.reason)}</td></tr>\n"
    )


def _settings(plan: Plan) -> str:
    sections = (
        ("Options", ((key, value) for key, value in plan.options)),
        ("Rules", _rules(plan)),
        ("Reserves and demands", _needs(plan)),
        ("Ties", ((tie.tensors[0], ", ".join(tie.tensors[1:])) for tie in plan.ties if tie.tensors)),
        ("Search", ((str(i), note) for i, note in enumerate(_search_notes(plan), 1))),
    )
    tables = [_settings_table(title, rows) for title, rows in sections]
    found = "\n".join(table for table in tables if table)
    return f"<h2>Made with</h2>\n{found}" if found else ""


def _search_notes(plan: Plan) -> Iterator[str]:
    if plan.outcome is not None:
        if plan.outcome.predicted is not None:
            yield predicted_text(plan.outcome.predicted)
        yield from plan.outcome.notes


def _settings_table(title: str, rows: Iterable[tuple[str, str]]) -> str:
    lines = [f"<tr><td><code>{_text(a)}</code></td><td>{_text(b)}</td></tr>" for a, b in rows]
    if not lines:
        return ""
    shown = "\n".join(lines[:_MOST_ROWS])
    more = f"<tr><td>and {len(lines) - _MOST_ROWS:,} more</td></tr>" if len(lines) > _MOST_ROWS else ""
    head = f"<summary>{title}<span>{len(lines):,}</span></summary>"
    return f"<details>{head}<table>{shown}{more}</table></details>"


def _rules(plan: Plan) -> Iterator[tuple[str, str]]:
    for rule in plan.constraints:
        match rule:
            case Atomic(target, by_class):
                yield target, "class never split" if by_class else "never split"
            case Split(pattern):
                yield pattern, "always split"
            case Never(pattern, device):
                yield pattern, f"never on {device}"
            case _:
                yield ", ".join(rule.patterns), "together on one device"


def _needs(plan: Plan) -> Iterator[tuple[str, str]]:
    for reserve in plan.reserves:
        yield reserve.device, f"{human_size(reserve.nbytes)} kept free for {reserve.purpose or 'anything'}"
    for (nbytes, purpose), run in groupby(plan.demands, lambda demand: (demand.nbytes, demand.purpose)):
        for each in fold_set(demand.path for demand in run):
            times = f"{each.count} x " if each.count > 1 else ""
            yield each.text, f"{times}{human_size(nbytes)} of {purpose}"

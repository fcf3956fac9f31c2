"""A plan as one HTML page for people: ledgers, a map of the model, places with reasons, warnings.

The page fetches nothing and runs only the script it holds; everything that comes from a plan is escaped.
"""

from __future__ import annotations

from ..ir import (
    Account,
    Device,
    Diagnostic,
    Plan,
    human_size,
)
from .html_script import SCRIPT, SOURCE
from .html_style import STYLE
from .predictions import counted_workload, timed_text, workload_text
from .report_data import Cell, Facts, Row, describe_cell, device_colours, in_rows
from .report_moments import moments
from .report_roads import plan_text, road, strips, text_of, what_if
from .report_settings import MOST_ROWS, settings

_MAP_HEIGHT = 380
_POLICY = f"default-src 'none'; style-src 'unsafe-inline'; script-src {SOURCE}"
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
    cells = facts.cells()
    colours = device_colours(plan)
    name = text_of(plan.model.name or "unnamed model")
    parts = [
        f"<h1>{name}</h1>",
        _subtitle(plan),
        _headline(facts),
        *map(_diagnostic, plan.diagnostics),
        _devices(facts, colours),
        strips(facts, cells, colours),
        _map(cells, colours),
        road(facts),
        moments(facts),
        what_if(facts, cells),
        _places(facts, colours),
        settings(plan),
        plan_text(facts),
        '<p id="said" aria-live="polite"></p>',
        "<footer>made by compile-plan</footer>",
    ]
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{name} - placement plan</title><style>{STYLE}</style>"
    )
    body = "\n".join(part for part in parts if part)
    script = f"<script>{SCRIPT}</script>"
    page = (
        f'<!doctype html>\n<html lang="en"><head>{head}</head>\n'
        f"<body><main>\n{body}\n</main>{script}</body></html>\n"
    )
    return page.encode("utf-8", "backslashreplace")


def _subtitle(plan: Plan) -> str:
    digest = f" · digest <code>{text_of(plan.model.digest)}</code>" if plan.model.digest else ""
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
    if (work := counted_workload(plan)) is not None:
        shown.append((work.kind, workload_text(work).partition(": ")[2]))
    if plan.outcome is not None:
        outcome = plan.outcome
        shown.append((outcome.status, f"{outcome.objective}, gap {outcome.gap:.1%}, {outcome.hops} hops"))
        if outcome.predicted is not None and outcome.predicted.token:
            shown.append((timed_text(outcome.predicted.token), "a token, predicted"))
    cards = "".join(
        f'<div class="fact"><b>{text_of(value)}</b><span>{text_of(what)}</span></div>'
        for value, what in shown
    )
    return f'<div class="facts">{cards}</div>'


def _diagnostic(found: Diagnostic) -> str:
    extra = "".join(f"<div>{text_of(note)}</div>" for note in found.notes)
    helps = (found.help or "").splitlines()
    extra += "".join(f"<div>{'' if at else 'help: '}{text_of(line)}</div>" for at, line in enumerate(helps))
    head = f"<code>{found.severity}[{text_of(found.code)}]</code> <b>{text_of(found.message)}</b>"
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
    origin = f"<br>{text_of(', '.join(notes))}" if notes else ""
    return (
        f'<section class="device"><header><b><i class="dot" style="background:{colour}"></i>'
        f"{text_of(device.name)}</b><span>{budget}{origin}</span></header>"
        f'<div class="bar">{"".join(bars)}</div><div class="parts">{"".join(parts)}</div></section>'
    )


def _map(cells: list[Cell], colours: dict[str, str]) -> str:
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
        f'<span><i class="dot" style="background:{colours.get(name, "#000")}"></i>{text_of(name)}</span>'
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
        f"{text_of(_short(cell.path))}<small>{human_size(cell.nbytes)}</small>"
        if 40 * cell.nbytes > row_bytes
        else ""
    )
    return (
        f'<div class="cell" style="flex:{cell.nbytes} 0 0;background:{paint}" '
        f'title="{text_of(describe_cell(cell))}">{text}</div>'
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
    lines = "".join(_row(row, store) for row in rows[:MOST_ROWS])
    if len(rows) > MOST_ROWS:
        lines += f'<tr><td colspan="5">and {len(rows) - MOST_ROWS:,} more lines</td></tr>'
    plural = "unit" if units == 1 else "units"
    return (
        f"<details{' open' if len(rows) <= 40 else ''}><summary>"
        f'<i class="dot" style="background:{colour}"></i>'
        f"{text_of(store or 'not placed')}<span>{units:,} {plural}{size}</span></summary>\n"
        '<table class="units"><tr><th>unit</th><th class="num">count</th><th class="num">each</th>'
        f"<th>runs on</th><th>reason</th></tr>{lines}</table></details>"
    )


def _row(row: Row, store: str) -> str:
    size = "" if row.nbytes is None else human_size(row.nbytes)
    run = "" if row.run == store else row.run
    return (
        f"<tr><td><code>{text_of(row.pattern or 'the whole model')}</code></td>"
        f'<td class="num">{row.count:,}</td><td class="num">{size}</td>'
        f"<td>{text_of(run)}</td><td>{text_of(row.reason)}</td></tr>\n"
    )

"""Parts of the report that say what a plan was made with: options, rules, needs, ties, notes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Final

from ..grammar.path_sets import fold_set
from ..ir import Atomic, Never, Plan, Split, human_size
from .predictions import predicted_text
from .report_roads import text_of

MOST_ROWS: Final = 400
"""Rows of a table; the rest is counted."""


def settings(plan: Plan) -> str:
    """Return the tables of options, rules, needs, ties and what the search had to say."""
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
    lines = [f"<tr><td><code>{text_of(a)}</code></td><td>{text_of(b)}</td></tr>" for a, b in rows]
    if not lines:
        return ""
    shown = "\n".join(lines[:MOST_ROWS])
    more = f"<tr><td>and {len(lines) - MOST_ROWS:,} more</td></tr>" if len(lines) > MOST_ROWS else ""
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

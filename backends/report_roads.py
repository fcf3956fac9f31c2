"""Parts of the report to look at and to try: strips of devices, the road of a token, budgets, the text."""

from __future__ import annotations

import json
from html import escape
from itertools import groupby
from typing import Final

from ..grammar import print_plan
from ..grammar.path_sets import fold_set
from ..ir import human_size, is_accelerator
from ..ir.visible import visible
from .report_data import Cell, Facts

_MOST_STEPS: Final = 24
_MOST_WORDS: Final = 6
_MOST_LINES: Final = 400
_WIDEST: Final = 3
"""Times its budget that a card can be tried with."""


def text_of(text: str) -> str:
    """Return text of others as it may stand in a page: no tags, and nothing that hides or steers."""
    return escape(visible(text))


def strips(facts: Facts, cells: list[Cell], colours: dict[str, str]) -> str:
    """Return a strip for each device: what it stores, in order, each block as wide as its bytes."""
    shown = []
    for device in facts.plan.devices:
        parts = [(cell, sum(n for s, _, n in cell.shares if s == device.name)) for cell in cells]
        held = [(cell, nbytes) for cell, nbytes in parts if nbytes]
        if held:
            blocks = "".join(_block(cell, nbytes, colours[device.name]) for cell, nbytes in held)
            total = human_size(sum(nbytes for _, nbytes in held))
            shown.append(
                f'<div class="strip" role="group" aria-label="{text_of(device.name)}, {total}">'
                f'<b>{text_of(device.name)}</b> <span class="crumb">everything here, {total}</span>'
                f'<div class="blocks">{blocks}</div></div>'
            )
    if not shown:
        return ""
    how = "A block opens what it is part of; Escape goes back, arrows move."
    return f'<h2>What each device stores</h2>\n<p class="sub">{how}</p>' + "\n".join(shown)


def _block(cell: Cell, nbytes: int, colour: str) -> str:
    label = f"{cell.path or 'the whole model'}, {human_size(nbytes)}"
    return (
        f'<button type="button" style="flex:{nbytes} 0 0;background:{colour}" '
        f'aria-label="{text_of(label)}" data-path="{text_of(cell.path)}" data-bytes="{nbytes}"></button>'
    )


def road(facts: Facts) -> str:
    """Return the devices a token passes in order, with what runs there and what it waits for."""
    placed = [unit for unit in facts.plan.units if unit.run]
    steps = [(device, [unit.path for unit in run]) for device, run in groupby(placed, lambda unit: unit.run)]
    if len(steps) < 2 and facts.plan.outcome is None:
        return ""
    lines = []
    for device, paths in steps[:_MOST_STEPS]:
        words = [each.text for each in fold_set(_outermost(paths))]
        more = f" and {len(words) - _MOST_WORDS} more" if len(words) > _MOST_WORDS else ""
        what = ", ".join(words[:_MOST_WORDS]) + more
        lines.append(f"<li><b>{text_of(device or '')}</b> {text_of(what)}</li>")
    if len(steps) > _MOST_STEPS:
        lines.append(f"<li>and {len(steps) - _MOST_STEPS:,} more steps</li>")
    return f'<h2>The road of a token</h2>\n<ol class="road">{"".join(lines)}</ol>{_limits(facts)}'


def _outermost(paths: list[str]) -> list[str]:
    """Return the paths that are in none of the others."""
    known = set(paths)
    above = {path: {path[:at] for at, char in enumerate(path) if char == "."} for path in paths}
    return [path for path in paths if not above[path] & known]


def _limits(facts: Facts) -> str:
    told = None if facts.plan.outcome is None else facts.plan.outcome.predicted
    limits = [] if told is None else [("the prompt", told.prompt_limit), ("a token", told.token_limit)]
    said = [f"{what} waits for {limit}" for what, limit in limits if limit]
    return f'<p class="sub">{text_of("; ".join(said))}</p>' if said else ""


def what_if(facts: Facts, cells: list[Cell]) -> str:
    """Return a slider for each card's budget, and what would fit: as planned, until one is moved."""
    cards = [d for d in facts.plan.devices if is_accelerator(d.name) and d.memory]
    if not cards or not cells:
        return ""
    accounts = facts.accounts()
    rows = []
    for card in cards:
        memory, account = card.memory or 0, accounts.get(card.name)
        kept = 0 if account is None else account.total - account.weights - account.buffers
        rows.append(
            f'<label>{text_of(card.name)} <input type="range" min="0" max="{_WIDEST * memory}" '
            f'step="{max(1, memory // 200)}" value="{memory}" data-kept="{kept}" data-memory="{memory}">'
            "<output></output></label>"
        )
    at = {card.name: number for number, card in enumerate(cards)}
    homes = [(at.get(store, -1), nbytes) for cell in cells for store, _, nbytes in cell.shares]
    parts = text_of(json.dumps(homes, separators=(",", ":")))
    how = "A card keeps what the plan gave it while that fits; what is off comes in where there is room."
    return (
        f'<section id="whatif" data-parts="{parts}" hidden><h2>What if a card were larger?</h2>'
        f'<p class="sub">{how}</p>{"".join(rows)}'
        '<output class="total" aria-live="polite"></output></section>'
    )


def plan_text(facts: Facts) -> str:
    """Return the plan as its own text, a line with an anchor each."""
    lines = print_plan(facts.plan).splitlines()
    shown = "\n".join(
        f'<a class="line" id="line-{number}" href="#line-{number}">{number:>4}</a> {text_of(line)}'
        for number, line in enumerate(lines[:_MOST_LINES], 1)
    )
    more = f"\n     and {len(lines) - _MOST_LINES:,} more lines" if len(lines) > _MOST_LINES else ""
    return (
        f"<h2>The plan as text</h2>\n<details><summary>{text_of(facts.plan.model.name or 'plan')}.plan"
        f"<span>{len(lines):,} lines</span></summary><pre>{shown}{more}</pre></details>"
    )

"""The ledger by moment: what a device holds at rest, while the prompt is read, while a token is written."""

from __future__ import annotations

from ..ir import Account, Plan, human_size
from ..ir.purposes import ON_ONE, ON_ONE_HOST, TOGETHER, WRITING, WRITING_HOST, counts_on
from .predictions import timed_text
from .report_data import Facts
from .report_roads import text_of

_AT_REST = ("weights", "buffers", "row_cache", "runtime", "reserve")
"""What is there before the first call and behind the last."""
_CALLED = ("kv_cache", "streaming")
"""What every call needs; activations are counted for the call that needs most of them."""
_APART = "What is in use at different times never adds up: a device must hold the fullest phase."
_KEPT = "A token's own activations, which nobody counted, come on top of the last column."


def moments(facts: Facts) -> str:
    """Return a table of devices and moments; nothing of a plan that tells no workload of generation."""
    plan = facts.plan
    workload = plan.workload
    if any(account.phase for account in plan.ledger):
        return _by_phase(plan.ledger)
    if not plan.ledger or (workload is not None and workload.kind != "generate"):
        return ""
    told = None if plan.outcome is None else plan.outcome.predicted
    heads = [
        ("reading the prompt", told.prompt if told else 0.0, told.prompt_limit if told else ""),
        ("writing a token", told.token if told else 0.0, told.token_limit if told else ""),
    ]
    columns = "".join(f'<th class="num">{text_of(_head(*head))}</th>' for head in heads)
    apart = _told_apart(plan)
    rows = "".join(
        _row(account, apart.get(account.device, (account.activations, 0))) for account in plan.ledger
    )
    kept = "" if apart else f'<p class="sub">{_KEPT}</p>'
    return (
        f"<h2>The ledger by moment</h2>\n{kept}<details open><summary>What each "
        "device holds</summary><table class='moments'><tr><th>device</th>"
        f'<th class="num">at rest</th>{columns}</tr>{rows}</table></details>'
    )


def _by_phase(ledger: tuple[Account, ...]) -> str:
    """Return a table of what devices hold when nothing runs, and in the phase in which they hold most."""
    rows = "".join(
        f"<tr><td>{text_of(account.device)}</td>"
        f'<td class="num">{human_size(_sum(account, _AT_REST))}</td>'
        f'<td class="num">{human_size(account.total - account.margin)}</td>'
        f"<td>{text_of(account.phase) or 'any time'}</td></tr>"
        for account in ledger
    )
    return (
        f'<h2>The ledger by phase</h2>\n<p class="sub">{_APART}</p><details open><summary>What each '
        "device holds</summary><table class='moments'><tr><th>device</th><th class=\"num\">at rest</th>"
        f'<th class="num">at most</th><th>while this is in use</th></tr>{rows}</table></details>'
    )


def _head(what: str, seconds: float, limit: str) -> str:
    waits = f", waits for {limit}" if limit else ""
    return f"{what} ({timed_text(seconds)}{waits})" if seconds else what


def _told_apart(plan: Plan) -> dict[str, tuple[int, int]]:
    """Return what reading and what writing takes, by the device that runs everything, where that counts."""
    told = {each.purpose: each.nbytes for each in plan.demands if each.purpose in TOGETHER}
    runs = {unit.run for unit in plan.units}
    runner = next((account for account in plan.ledger if runs == {account.device}), None)
    if runner is None:
        return {}
    known = [
        (told[reading], told[writing])
        for reading, writing in ((ON_ONE_HOST, WRITING_HOST), (ON_ONE, WRITING))
        if {reading, writing} <= told.keys() and counts_on(reading, runner.device)
    ]
    return {runner.device: known[0]} if known and max(known[0]) == runner.activations else {}


def _row(account: Account, activations: tuple[int, int]) -> str:
    rest = _sum(account, _AT_REST)
    called = rest + _sum(account, _CALLED)
    cells = (rest, *(called + nbytes for nbytes in activations))
    sizes = "".join(f'<td class="num">{human_size(nbytes)}</td>' for nbytes in cells)
    return f"<tr><td>{text_of(account.device)}</td>{sizes}</tr>"


def _sum(account: Account, lines: tuple[str, ...]) -> int:
    return sum(getattr(account, line) for line in lines)

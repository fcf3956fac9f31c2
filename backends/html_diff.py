"""Two plans side by side as one page: what each device holds before and after, and what moved."""

from __future__ import annotations

from ..ir import Account, Device, Plan, human_size
from .html_style import STYLE
from .report_data import Facts, device_colours
from .report_roads import text_of

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def emit_diff(before: Plan, after: Plan, names: tuple[str, str], lines: list[str]) -> bytes:
    """Write the page; ``lines`` is the difference in words, as `--diff` prints it."""
    sides = [
        f'<section><h2>{what}: {text_of(name)}</h2><div class="devices">{_devices(plan)}</div></section>'
        for what, name, plan in zip(("before", "after"), names, (before, after), strict=True)
    ]
    moved = "\n".join(map(text_of, lines)) or "nothing: the plans are the same"
    title = f"{text_of(before.model.name or 'unnamed model')} - two plans"
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style>"
    )
    body = f'<h1>{title}</h1><div class="sides">{"".join(sides)}</div><h2>What moved</h2><pre>{moved}</pre>'
    page = f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body><main>{body}</main></body></html>\n'
    return page.encode("utf-8", "backslashreplace")


def _devices(plan: Plan) -> str:
    accounts = Facts(plan).accounts()
    colours = device_colours(plan)
    return "".join(
        _device(device, accounts.get(device.name), colours[device.name]) for device in plan.devices
    )


def _device(device: Device, account: Account | None, colour: str) -> str:
    total = 0 if account is None else account.total
    share = min(100.0, 100 * total / max(device.memory or total, 1))
    budget = human_size(total) + ("" if device.memory is None else f" of {human_size(device.memory)}")
    return (
        f'<div class="device"><header><b>{text_of(device.name)}</b><span>{budget}</span></header>'
        f'<div class="bar"><i style="width:{share:.3f}%;background:{colour}"></i></div></div>'
    )

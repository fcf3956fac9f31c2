"""What a notebook shows of a plan: the page of the report, in a frame that keeps its styles apart."""

from __future__ import annotations

from html import escape
from typing import Final

from ..ir import Plan

_LEAST: Final = 280
_A_DEVICE: Final = 64
_MOST: Final = 720
"""Pixels: of a page without devices, of each device on it, and what a notebook has room for."""


def notebook_html(plan: Plan) -> str:
    """Return the bars and tables of a plan as a piece of a page."""
    from .html_report import emit_report

    page = escape(emit_report(plan).decode("utf-8"))
    height = min(_MOST, _LEAST + _A_DEVICE * len(plan.devices))
    style = f"width:100%;height:{height}px;border:0"
    return f'<iframe title="placement plan" sandbox="" style="{style}" srcdoc="{page}"></iframe>'

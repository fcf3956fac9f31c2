"""A plan in a notebook: a short line where it is printed, the report where pages are shown."""

from __future__ import annotations

from html import unescape

from compile_plan.backends.html_report import emit_report
from compile_plan.compiler import compile_model
from compile_plan.ir import Model, Plan, Unit
from torch import nn


def test_a_notebook_shows_the_report_in_a_frame_of_its_own():
    model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(4)))
    plan = compile_model(model, max_memory={0: "40KiB", "cpu": "1MiB"})
    shown: str = vars(type(plan))["_repr_html_"](plan)
    assert shown.startswith("<iframe ")
    assert shown.endswith("></iframe>")
    assert shown.count("<") == 2
    page = shown.partition('srcdoc="')[2].removesuffix('"></iframe>')
    assert unescape(page).encode() == emit_report(plan)


def test_a_plan_is_printed_in_a_line():
    assert repr(Plan(Model("net"))) == "<Plan 'net': 0 units>"
    units = (Unit("a", "cuda:0", "cuda:0"), Unit("b", "cpu", "cuda:0"))
    assert repr(Plan(Model("a\nb"), units=units)) == "<Plan 'a\\nb': 2 units on cuda:0, cpu>"

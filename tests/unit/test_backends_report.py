from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

from compile_plan.backends.html_report import emit_report
from compile_plan.backends.report_data import Facts
from compile_plan.ir import (
    Account,
    Atomic,
    Demand,
    Device,
    Diagnostic,
    Model,
    Never,
    Outcome,
    Plan,
    Reason,
    Rule,
    Severity,
    TieGroup,
    Together,
    Unit,
)
from compile_plan.ir.purposes import ON_ONE, ON_ONE_HOST, WRITING, WRITING_HOST
from hypothesis import HealthCheck, given, settings
from planfile_strategies import plans, tree_of
from steps import counted

HOSTILE = "<script>alert(1)</script>\"'&"
TREE = tree_of(
    {f"h.{i}.{n}.weight": 2**20 for i in range(12) for n in ("attn", "mlp")} | {"head.weight": 2**22}
)
PLAN = Plan(
    Model("gpt2", TREE.digest),
    (Device("cuda:0", 2**24, origin="given"), Device("cpu", 2**30), Device("disk", None, at="offload/")),
    units=(
        *(Unit(f"h.{i}", "cuda:0", "cuda:0", Reason.SEARCHED) for i in range(6)),
        *(Unit(f"h.{i}", "cpu", "cuda:0", Reason.SPILLED) for i in range(6, 12)),
        Unit("head", "disk", "cuda:0", Reason.SPILLED),
    ),
    tree=TREE,
)


class Page(HTMLParser):
    """Collects the tags, the text and the titles of a page, and checks that tags are closed."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""
        self.titles: list[str] = []
        self.attributes: set[str] = set()
        self._open: list[str] = []
        self.feed(data.decode())
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.titles += [value for name, value in attrs if name == "title"]
        if tag not in {"meta", "br", "input"}:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_units_are_ranges_with_their_bytes_run_device_and_reason():
    text = Page(emit_report(PLAN)).text
    assert "h.{0..5}" in text
    assert re.search(r"h\.\{6\.\.11\}\s*6\s*2\.0MiB\s*cuda:0\s*spilled", text)


def test_without_a_ledger_the_stored_bytes_are_shown():
    assert Facts(PLAN).accounts()["cuda:0"] == Account("cuda:0", weights=12 * 2**20)
    assert "weights 12.0MiB" in Page(emit_report(PLAN)).text


def test_the_ledger_of_the_plan_wins():
    plan = replace(PLAN, ledger=(Account("cuda:0", 100, kv_cache=1024),))
    text = Page(emit_report(plan)).text
    assert "kv cache 1.0KiB" in text
    assert "1.1KiB of 16.0MiB" in text


def test_the_map_shows_every_block_in_order_with_its_places():
    titles = Page(emit_report(PLAN)).titles
    assert titles[0] == "h.0.attn: 1.0MiB on cuda:0"
    assert "h.11.mlp: 1.0MiB on cpu run on cuda:0" in titles
    assert sum(cell.nbytes for cell in Facts(PLAN).cells()) == 28 * 2**20


def test_everything_of_a_plan_that_was_not_made_here_is_escaped():
    rule = Rule("odd", Severity.WARNING, "")
    plan = replace(
        PLAN,
        model=Model(HOSTILE, HOSTILE),
        devices=(replace(PLAN.devices[0], origin=HOSTILE, pool=HOSTILE, at=HOSTILE), *PLAN.devices[1:]),
        options=((HOSTILE, HOSTILE),),
        units=(*PLAN.units, Unit(HOSTILE, "cpu", "cpu")),
        constraints=(Atomic(HOSTILE), Never(HOSTILE, HOSTILE), Together((HOSTILE, "a"))),
        ties=(TieGroup((HOSTILE, HOSTILE)),),
        outcome=Outcome(HOSTILE, 1, 1, HOSTILE, notes=(HOSTILE,)),
        diagnostics=(Diagnostic(rule, HOSTILE, notes=(HOSTILE,), help=HOSTILE),),
        tree=replace(TREE, names=tuple(HOSTILE if name == "head" else name for name in TREE.names)),
    )
    data = emit_report(plan)
    page = Page(data)
    assert data.count(b"<script") == 1  # ours
    assert page.text.count(HOSTILE) > 15
    assert any(HOSTILE in title for title in page.titles)
    assert not any(name.startswith("on") for name in page.attributes)


def test_the_page_fetches_nothing():
    page = Page(emit_report(PLAN))
    assert "src" not in page.attributes
    assert set(re.findall(rb'href="([^"]{1,6})', emit_report(PLAN))) == {b"#line-"}
    assert "url(" not in page.text
    assert b"default-src 'none'" in emit_report(PLAN)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plans())
def test_any_plan_has_a_whole_page_and_always_the_same(plan):
    declared = {device.name for device in plan.devices}
    data = emit_report(plan)
    assert {"html", "main"} <= Page(data).tags
    assert emit_report(plan) == data
    assert all(name in Page(data).text for name in declared)


def test_a_large_mixture_stays_readable():
    tensors = {f"l.{i}.e.{j}.w": 2**20 for i in range(61) for j in range(64)}
    units = tuple(
        Unit(f"l.{i}.e.{j}", f"cuda:{j % 2}", f"cuda:{j % 2}") for i in range(61) for j in range(64)
    )
    devices = (Device("cuda:0", 2**40), Device("cuda:1", 2**40))
    plan = Plan(Model("moe"), devices, units=units, tree=tree_of(tensors))
    data = emit_report(plan)
    assert len(Facts(plan).cells()) == 61
    assert len(data) < 120_000


def test_blocks_are_labelled_so_that_neighbours_differ():
    tensors = {f"h.{i}.{n}.weight": 2**20 for i in range(3) for n in ("mlp.up", "mlp.down")}
    page = Page(emit_report(Plan(Model("m"), tree=tree_of({**tensors, "model.head.weight": 2**20}))))
    assert "1.mlp.up" in page.text
    assert "h.1.mlp.up" not in page.text
    assert "head" in page.text


def test_equal_demands_of_a_stack_are_one_line():
    demands = tuple(Demand(2**20, f"h.{i}", "activations") for i in range(12))
    page = Page(emit_report(replace(PLAN, demands=demands)))
    assert "h.{0..11}12 x 1.0MiB of activations" in page.text


def test_what_reading_and_what_writing_takes_is_told_apart_on_one_device():
    lines = (ON_ONE, 2), (WRITING, 3), (ON_ONE_HOST, 7), (WRITING_HOST, 6)
    demands = tuple(Demand(nbytes, "", purpose) for purpose, nbytes in lines)
    for device, most, cells in (("cuda:0", 3, "5B7B8B"), ("cpu", 7, "5B12B11B")):
        ledger = (Account(device, weights=5, activations=most),)
        plan = Plan(Model("m"), units=(Unit("", device, device),), demands=demands, ledger=ledger)
        assert f"{device}{cells}" in Page(emit_report(plan)).text
        spread = replace(plan, units=(Unit("a", device, device), Unit("b", "cuda:1", "cuda:1")))
        assert f"{device}5B{5 + most}B5B" in Page(emit_report(spread)).text


def test_a_plan_without_a_name_has_a_heading():
    page = emit_report(Plan(Model("")))
    assert b"<h1>unnamed model</h1>" in page


def test_a_page_of_many_devices_costs_no_more_for_each():
    def calls(count):
        plan = Plan(Model("m"), devices=tuple(Device(f"cuda:{i}", 100) for i in range(count)))
        return counted(lambda: emit_report(plan))[1]

    assert calls(800) < 5 * calls(200)

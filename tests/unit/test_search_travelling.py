"""What is streamed is waited for where too little computes before it, and is put where enough does."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import groupby

import pytest
from compile_plan.compiler.search.atoms import build
from compile_plan.compiler.search.costs import Costs, predict
from compile_plan.compiler.search.hiding import hidden
from compile_plan.compiler.search.polish import polished
from compile_plan.compiler.search.problem import Place, is_legal
from compile_plan.ir import Atomic, Device, Workload
from search_models import leaves, placed, plan_of, tree_of

MIB = 2**20
TOKEN = Workload("generate", 1, 0, 1)
CARD, HOST, STREAMED = Place(0, 0), Place(1, 1), Place(1, 0)
DISK = Place(2, 0)


def machine(*, link, host, disk=None):
    """Return a card that needs a second for 100 MB, and the rest by the seconds they need for as much."""
    rates = {name: int(1e8 / seconds) for name, seconds in (("link", link), ("host", host))}
    fast = {"flops": 10**18, "latency": 0}
    card = Device("cuda:0", 10**12, bandwidth=10**8, link=rates["link"], **fast)
    drive = () if disk is None else (Device("disk", None, link=int(1e8 / disk)),)
    return (card, Device("cpu", 10**12, bandwidth=rates["host"], **fast), *drive)


def seconds(devices, places):
    plan = plan_of(leaves(**{f"m{i}": 10**8 for i in range(len(places))}), devices)
    return predict(build(plan, plan.tree).problem, places, TOKEN).seconds


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        # There is time for three in what lies between the end of one call and the middle of the next.
        ([CARD, CARD, CARD, STREAMED], 4),
        ([CARD, STREAMED, CARD, STREAMED], 2 * (1.5 + 1)),  # half a second of each is not hidden
        ([CARD, CARD, STREAMED, STREAMED], 4 + 1.5),  # nothing lies between: the second is waited for
        ([HOST, STREAMED, HOST, STREAMED], 2 * (2 + 1)),
        ([STREAMED] * 4, 4 * (1.5 + 1)),
    ],
    ids=["one", "spread", "together", "host", "all"],
)
def test_a_call_waits_for_what_had_no_time_to_travel(places, expected):
    assert seconds(machine(link=1.5, host=2), places) == pytest.approx(expected)


def test_what_comes_from_disk_is_there_when_disk_and_link_have_brought_it():
    devices = machine(link=1.5, host=2, disk=2.5)
    assert seconds(devices, [CARD, DISK, CARD, DISK]) == pytest.approx(2 * (2.5 + 1))
    assert seconds(devices, [CARD, STREAMED, CARD, DISK]) == pytest.approx(1.5 + 1 + 2.5 + 1)


def test_the_next_pages_are_read_while_a_processor_uses_those_before():
    devices = machine(link=1.5, host=2, disk=2.5)
    paged = Place(2, 1)
    assert seconds(devices, [HOST, HOST, paged, paged]) == pytest.approx(8 + 0.5)
    assert seconds(devices, [HOST, paged, HOST, paged]) == pytest.approx(8)
    assert seconds(devices, [paged] * 4) == pytest.approx(4 * 2.5)


def test_every_card_has_a_link_of_its_own():
    first = machine(link=1.5, host=2)
    devices = (first[0], replace(first[0], name="cuda:1"), first[1])
    one, other = Place(2, 0), Place(2, 1)
    assert seconds(devices, [one, one, other, other]) == pytest.approx(4 + 1.5 + 1.5)
    assert seconds(devices, [one, other, one, other]) == pytest.approx(4 + 2 * 0.5)


def test_what_is_streamed_of_a_layer_travels_as_one():
    layer = {"attn": 4 * 10**7, "mlp": 6 * 10**7}
    tree = tree_of({"layers:ModuleList": {f"{i}:Blk": layer for i in range(4)}})
    plan = plan_of(tree, machine(link=1.5, host=2), constraints=(Atomic("Blk", by_class=True),))
    whole, parts = build(plan, tree), build(replace(plan, constraints=()), tree)
    assert (len(whole.problem.atoms), len(parts.problem.atoms)) == (4, 8)
    for each in ([CARD, CARD, STREAMED, STREAMED], [HOST, STREAMED, CARD, STREAMED]):
        told = predict(whole.problem, each, TOKEN).seconds
        assert predict(parts.problem, [p for p in each for _ in range(2)], TOKEN).seconds == pytest.approx(
            told
        )


@pytest.mark.parametrize("host", [0.5, 1, 1.5, 2, 4])
def test_equal_layers_are_exchanged_until_what_travels_has_time(host):
    devices = machine(link=1.5, host=host)
    places = [HOST] * 6 + [CARD] * 3 + [STREAMED] * 3
    plan = plan_of(leaves(**{f"m{i}": 10**8 for i in range(12)}), devices)
    problem = build(plan, plan.tree).problem
    found = hidden(Costs(problem), places, 1, 0.0)
    assert Counter(found) == Counter(places)
    assert [each for each in found if each != STREAMED] == [each for each in places if each != STREAMED]
    before, after = (predict(problem, each, TOKEN).token for each in (places, found))
    assert before.stalled > 1
    assert after.stalled == pytest.approx(0, abs=1e-9)
    assert after.seconds == pytest.approx(6 * host + 6)


def test_plans_let_weights_travel_while_the_host_computes():
    """Of twelve layers three fit; the host needs half as long for one as the link."""
    card = Device("cuda:0", 4 * 512 * MIB, bandwidth=10**12, link=10**10, flops=10**15)
    devices = (card, Device("cpu", 10**12, bandwidth=2 * 10**10, flops=10**15))
    layers = {f"{i}:Blk": 512 * MIB for i in range(12)}
    plan = placed(plan_of(tree_of({"layers:ModuleList": layers}), devices))
    ways = ["streamed" if unit.store != unit.run else unit.run for unit in plan.units]
    assert {"streamed", "cpu"} <= set(ways)
    assert max(len(list(run)) for way, run in groupby(ways) if way == "streamed") == 1
    assert plan.outcome.value <= 1.1 * plan.outcome.bound


def test_the_order_of_a_few_unequal_parts_is_the_quickest_there_is():
    devices = machine(link=1.5, host=4)
    sizes = {f"m{i}": size * 10**7 for i, size in enumerate((10, 11, 12, 13, 14))}
    plan = plan_of(leaves(**sizes), devices)
    problem = build(plan, plan.tree).problem
    places = [CARD, CARD, STREAMED, STREAMED, STREAMED]
    found = polished(Costs(problem), places, TOKEN)
    assert is_legal(problem, found)
    assert predict(problem, found, TOKEN).seconds < predict(problem, places, TOKEN).seconds

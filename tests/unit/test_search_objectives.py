"""What each objective is worth leaving the order of the layers for, and what `auto` offload chooses."""

from __future__ import annotations

from itertools import product

import pytest
from compile_plan.ir import Demand, Device
from hypothesis import given, settings
from hypothesis import strategies as st
from search_models import leaves, placed, plan_of, stored, where

TWO = {"cuda:0": 100, "cuda:1": 100, "cpu": 999}


@pytest.mark.parametrize("objective", ["balance", "headroom", "throughput"])
def test_the_order_is_left_where_that_pays_and_the_plan_says_so(objective):
    plan = placed(plan_of(leaves(a=30, b=10, c=30, d=10, e=30, f=10), TWO), objective=objective)
    assert {stored(plan)["cuda:0"], stored(plan)["cuda:1"]} == {60}
    hops = 0.02 * plan.outcome.bound if objective == "throughput" else 0  # paid for, and the bound has none
    assert plan.outcome.value <= plan.outcome.bound + hops
    assert "leaves the order of the layers" in plan.outcome.notes[-1]
    assert f"{plan.outcome.hops} changes of device instead of 1" in plan.outcome.notes[-1]


@pytest.mark.parametrize("objective", ["balance", "headroom", "throughput"])
def test_the_order_is_kept_where_leaving_it_gains_next_to_nothing(objective):
    plan = placed(plan_of(leaves(a=30, b=31, c=30, d=29), TWO), objective=objective)
    assert plan.outcome.hops == 1
    assert plan.outcome.notes == ()


def test_fewest_devices_leaves_the_order_for_one_device_less():
    budgets = {f"cuda:{i}": 100 for i in range(3)} | {"cpu": 999}
    plan = placed(plan_of(leaves(a=60, b=60, c=40, d=40), budgets), objective="fewest-devices")
    assert sum(size > 0 for size in stored(plan).values()) == 2
    assert "2 devices instead of 3" in plan.outcome.notes[0]


def test_latency_gives_the_faster_device_more():
    devices = (
        Device("cuda:0", 80, bandwidth=1000, flops=10**6),
        Device("cuda:1", 80, bandwidth=3000, flops=3 * 10**6),
        Device("cpu", 99),
    )
    plan = placed(plan_of(leaves(a=30, b=50, c=30), devices), objective="latency")
    assert stored(plan) == {"cuda:0": 30, "cuda:1": 80, "cpu": 0}


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=6),
    st.lists(st.integers(20, 90), min_size=2, max_size=3),
)
@settings(max_examples=60)
def test_the_fullest_device_is_near_the_emptiest_possible(sizes, budgets):
    names = {f"cuda:{i}": budget for i, budget in enumerate(budgets)} | {"cpu": 9999}
    plan = placed(plan_of(leaves(**{f"m{i}": n for i, n in enumerate(sizes)}), names), objective="balance")
    loads = [
        max(
            sum(n for n, d in zip(sizes, choice, strict=True) if d == device) / budgets[device]
            for device in range(len(budgets))
        )
        for choice in product(range(len(budgets)), repeat=len(sizes))
    ]
    if min(loads) <= 1:
        assert min(loads) - 1e-9 <= plan.outcome.value <= min(loads) / 0.95 + 0.02
        assert plan.outcome.bound <= min(loads) + 1e-6


def workload_plan(prompt, generate, offload="auto"):
    mib = 1 << 20
    host = Device("cpu", 1 << 40, bandwidth=40 * 10**9, link=10**13, flops=10**12)
    card = Device("cuda:0", 40 * mib, bandwidth=900 * 10**9, link=10 * 10**9, flops=100 * 10**12)
    tree = leaves(a=30 * mib, b=20 * mib, c=20 * mib)
    return placed(plan_of(tree, (card, host)), offload=offload, prompt=prompt, generate=generate)


def test_reading_a_long_prompt_streams_and_writing_many_tokens_computes_on_the_cpu():
    reading, writing = workload_plan(8192, 1), workload_plan(1, 512)
    assert all(unit.run == "cuda:0" for unit in reading.units)
    assert any(unit.run == "cpu" for unit in writing.units)
    assert all(plan.outcome.predicted.simple for plan in (reading, writing))


def test_a_streamed_layer_keeps_its_cache_on_the_accelerator():
    demands = tuple(Demand(5, f"l{i}", "kv cache") for i in range(6))
    tree = leaves(**{f"l{i}": 20 for i in range(6)})
    plan = placed(plan_of(tree, {"cuda:0": 100, "cpu": 999}, demands=demands), offload="stream")
    assert [account.kv_cache for account in plan.ledger] == [30, 0]
    assert "cpu>cuda:0" in where(plan).values()

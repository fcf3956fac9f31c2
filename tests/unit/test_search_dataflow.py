"""Sharing out a dataflow graph among unequal devices: each stage against every assignment there is."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, product

import pytest
import torch
from compile_plan.backends import to_device_map
from compile_plan.compiler import compile_model
from compile_plan.compiler.search import annealing
from compile_plan.compiler.search import partition as sharing
from compile_plan.compiler.search.annealing import anneal, walk
from compile_plan.compiler.search.clock import Clock
from compile_plan.compiler.search.dataflow import Assignment, Graph, busiest
from compile_plan.compiler.search.flows import Flow
from compile_plan.compiler.search.intervals import in_order
from compile_plan.compiler.search.partition import least_load, partition
from compile_plan.compiler.search.windows import Window
from compile_plan.ir import Device
from hypothesis import given, settings
from hypothesis import strategies as st
from search_models import leaves, placed, plan_of, where
from torch import nn

INF = float("inf")
EVER = Clock(INF)


def chain(count, *, fast=None, devices=3, toll=0.1, memory=100.0, groups=None):
    """Return equal accelerators and one CPU ten times slower, for nodes that feed one another."""
    times = fast or (1.0,) * count
    return Graph(
        times=(times,) * devices + (tuple(10 * time for time in times),),
        tolls=((toll,) * count,) * devices + ((0.0,) * count,),
        memories=(memory,) * devices + (INF,),
        sizes=(1.0,) * count,
        edges=tuple(pairwise(range(count))),
        groups=groups or tuple((i,) for i in range(count)),
    )


@st.composite
def graphs(draw, largest=6, devices=3):
    """Draw a graph for devices of which no two need be alike; the last has room for everything."""
    count = draw(st.integers(2, largest))
    numbers = st.lists(st.integers(1, 9), min_size=count, max_size=count)
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    equal = draw(st.booleans())
    first = tuple(map(float, draw(numbers))), tuple(n / 4 for n in draw(numbers))
    rows = [
        first,
        *(
            first if equal else (tuple(map(float, draw(numbers))), tuple(n / 4 for n in draw(numbers)))
            for _ in range(devices - 2)
        ),
    ]
    room = float(draw(st.integers(9, 40)))
    joined = draw(st.booleans()) and count > 2
    return Graph(
        times=(*(times for times, _ in rows), tuple(10.0 * n for n in draw(numbers))),
        tolls=(*(tolls for _, tolls in rows), (0.0,) * count),
        memories=(*(room + (0 if equal else n) for n in range(devices - 1)), INF),
        sizes=tuple(map(float, draw(numbers))),
        edges=tuple(draw(st.lists(st.sampled_from(pairs), unique=True, max_size=10))),
        groups=((0, count - 1), *((i,) for i in range(1, count - 1)))
        if joined
        else tuple((i,) for i in range(count)),
    )


def assignments(graph):
    for choice in product(range(len(graph.memories)), repeat=len(graph.groups)):
        yield [choice[group] for group in graph.group_of]


def best_of_all(graph):
    return min(busiest(graph, devices) for devices in assignments(graph))


def test_a_chain_is_cut_into_equal_parts():
    graph = chain(9)
    devices = in_order(graph)
    assert busiest(graph, devices) == pytest.approx(3.2)
    assert sorted(devices) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_memory_and_groups_bind_the_cut():
    graph = chain(6, memory=2.0, groups=((0, 1), (2,), (3,), (4,), (5,)))
    devices = in_order(graph)
    assert devices[0] == devices[1]
    assert busiest(graph, devices) == pytest.approx(2.2)
    assert busiest(replace(graph, memories=(1.0, 1.0, 1.0, INF)), devices) == INF


def test_the_faster_and_the_larger_device_get_more():
    slow, fast = (2.0,) * 9, (1.0,) * 9
    graph = replace(chain(9, devices=1, toll=0.0), times=(slow, fast), memories=(INF, INF))
    assert [in_order(graph).count(device) for device in (0, 1)] == [3, 6]
    small = replace(graph, memories=(INF, 4.0))
    assert [in_order(small).count(device) for device in (0, 1)] == [5, 4]


@given(graphs())
@settings(max_examples=40)
def test_segments_are_as_good_as_all_segments_of_the_order_given(graph):
    """A device may take one segment of the groups: by hand over all cuts and all devices."""

    def is_contiguous(devices):
        runs = [devices[group[0]] for group in graph.groups]
        firsts = [run for index, run in enumerate(runs) if index == 0 or run != runs[index - 1]]
        return len(firsts) == len(set(firsts))

    best = min(busiest(graph, devices) for devices in assignments(graph) if is_contiguous(devices))
    assert busiest(graph, in_order(graph)) <= best + 1e-9


def test_many_different_devices_are_used_all_the_same():
    count = 14
    graph = chain(28, devices=1, toll=0.01)
    times = tuple(tuple(1 + device / 100 for _ in range(28)) for device in range(count))
    many = replace(graph, times=times, tolls=(graph.tolls[0],) * count, memories=(100.0,) * count)
    assert busiest(many, in_order(many)) < 2.5


@given(graphs())
@settings(max_examples=30)
def test_loads_kept_while_nodes_move_are_those_counted_afresh(graph):
    state = Assignment(graph, [0] * len(graph.sizes))
    for index, group in enumerate(graph.groups):
        state.move(group, index % len(graph.memories))
    fresh = Assignment(graph, state.devices)
    assert state.loads == pytest.approx(fresh.loads)
    assert state.sizes == pytest.approx(fresh.sizes)


@given(graphs())
@settings(max_examples=30)
def test_annealing_a_tiny_graph_gives_the_best_of_all_assignments(graph):
    assert busiest(graph, anneal(graph, in_order(graph), 10)) == pytest.approx(best_of_all(graph))


@given(graphs(), st.integers(0, 3))
@settings(max_examples=20)
def test_the_walk_is_no_worse_than_its_start_and_the_same_each_time(graph, seed):
    start = in_order(graph)
    found = walk(graph, start, 1200, seed=seed)
    assert best_of_all(graph) - 1e-9 <= busiest(graph, found) <= busiest(graph, start)
    assert walk(graph, start, 1200, seed=seed) == found


def test_the_walk_swaps_where_memory_leaves_no_room_for_a_single_move():
    times, groups = (1.0, 3.0, 1.0, 1.0, 3.0, 3.0), tuple((i,) for i in range(6))
    graph = Graph(
        (times, times, tuple(99 * n for n in times)),
        ((0.0,) * 6,) * 3,
        (9.0, 9.0, INF),
        (3.0,) * 6,
        (),
        groups,
    )
    assert busiest(graph, [0, 1, 0, 0, 1, 1]) == 9
    assert busiest(graph, walk(graph, [0, 1, 0, 0, 1, 1], 4000)) == 7
    assert busiest(graph, anneal(graph, [0, 1, 0, 0, 1, 1], 0)) == 7


def test_the_walk_moves_what_is_costly_to_part_together():
    """Pairs joined by dear edges: any single group that moves alone makes things much worse."""
    count = 8
    graph = replace(
        chain(count, devices=2, toll=5.0),
        edges=tuple((i, i + 1) for i in range(0, count, 2)),
        times=((1.0,) * count, (1.0,) * count, (99.0,) * count),
    )
    assert busiest(graph, walk(graph, [0] * count, 1200)) == 4


@given(graphs(), st.integers(0, 80))
@settings(max_examples=30, deadline=None)
def test_a_window_is_shared_out_as_well_as_can_be_and_nothing_else_moves(graph, pick):
    """Against every assignment that differs only in which of two devices has what."""
    start = list(assignments(graph))[pick % len(graph.memories) ** len(graph.groups)]
    window = (0, 2)
    found = Window(graph, start, window).share_again(EVER, 1000)
    kept = [node for node, device in enumerate(start) if device not in window]

    def value(devices):
        state = Assignment(graph, devices)
        full = any(state.sizes[d] > graph.memories[d] + 1e-9 for d in window)
        return INF if full else max(state.loads[d] for d in window)

    alike = [devices for devices in assignments(graph) if all(devices[node] == start[node] for node in kept)]
    alike = [d for d in alike if all(d[n] in window for n in range(len(d)) if n not in kept)]
    assert found is not None
    assert all(found[node] == start[node] for node in kept)
    assert value(found) <= min(map(value, alike)) * 1.003 + 1e-9


@given(graphs())
@settings(max_examples=15, deadline=None)
def test_all_stages_together_reach_the_best_of_all(graph):
    tiny = annealing.TINY
    annealing.TINY = 0  # what is counted through would leave the stages nothing
    try:
        found = partition(graph, EVER, 600)
        assert busiest(graph, found) <= best_of_all(graph) * 1.005 + 1e-9
        assert partition(graph, EVER, 600) == found
    finally:
        annealing.TINY = tiny


def test_windows_end_where_their_work_does(monkeypatch):
    """The walk stays at its start here; each window's columns count, and what is too large is left alone."""
    graph = chain(12, devices=4, toll=0.01)
    monkeypatch.setattr(annealing, "TINY", 0)
    monkeypatch.setattr(sharing, "in_order", lambda graph: [0] * len(graph.sizes))
    asked = []
    share = Window.share_again

    def watched(window, clock, nodes):
        asked.append((window.work, len(window.window), nodes))
        return share(window, clock, nodes)

    monkeypatch.setattr(Window, "share_again", watched)
    free = busiest(graph, partition(graph, EVER, 0))
    assert {(few, nodes) for _, few, nodes in asked} == {(2, 200), (3, 20)}
    total, first = sum(work for work, *_ in asked), asked[0][0]
    for most in (0, first, total // 2):
        asked.clear()
        monkeypatch.setattr(sharing, "WORK", most)
        bound = busiest(graph, partition(graph, EVER, 0))
        assert sum(work for work, *_ in asked) <= most
        assert bool(asked) == bool(most)
        assert free <= bound <= busiest(graph, [0] * 12)
    assert free < busiest(graph, [0] * 12)


def test_what_a_window_answered_is_not_asked_again(monkeypatch):
    graph = chain(12, devices=3, toll=0.01)
    monkeypatch.setattr(annealing, "TINY", 0)
    monkeypatch.setattr(sharing, "in_order", lambda graph: [0] * len(graph.sizes))
    seen = []
    share = Window.share_again

    def watched(window, clock, nodes):
        sets = [frozenset(n for n, d in enumerate(window.devices) if d == one) for one in window.window]
        seen.append(frozenset(sets))
        found = share(window, clock, nodes)
        seen.append(frozenset(frozenset(n for n, d in enumerate(found) if d == one) for one in window.window))
        return found

    monkeypatch.setattr(Window, "share_again", watched)
    partition(graph, EVER, 0)
    asked, answered = seen[::2], seen[1::2]
    assert len(asked) > 3
    assert all(one not in {*asked[:i], *answered[:i]} for i, one in enumerate(asked))


@given(graphs())
@settings(max_examples=30)
def test_no_assignment_beats_the_bound(graph):
    assert least_load(graph) <= best_of_all(graph) + 1e-9


TWO = [Device("cuda:0", 1000), Device("cuda:1", 1000), Device("cpu", 9999)]


def test_a_plan_is_cut_where_little_crosses():
    """Six equal parts, halves are best by work; what b hands to all others is dear, so it goes to few."""
    tree = leaves(**dict.fromkeys("abcdef", 100000000))
    devices = [Device("cuda:0", 10**9), Device("cuda:1", 10**9), Device("cpu", 10**10)]
    dear = [Flow("c", ("d",), 4e6)]
    thin = [Flow(a, (b,), 1e3) for a, b in (("a", "b"), ("b", "c"), ("d", "e"), ("e", "f"))]
    plan = plan_of(tree, devices)
    without = where(placed(plan, objective="throughput"))
    told = where(placed(plan, objective="throughput", flows=(*thin, *dear)))
    assert without["c"] != without["d"]
    assert told["c"] == told["d"]
    assert len(set(told.values())) == 2


class Forked(nn.Module):
    """A trunk of small steps, and a wide tensor that only the second layer takes."""

    def __init__(self):
        super().__init__()
        self.steps = nn.ModuleList(nn.Linear(512, 512, bias=False) for _ in range(4))
        self.widen = nn.Linear(512, 4096, bias=False)
        self.narrow = nn.Linear(4096, 512, bias=False)

    def forward(self, x):
        for step in self.steps:
            x = step(x)
        return self.narrow(self.widen(x))


def test_the_graph_of_a_trace_keeps_what_is_wide_on_one_device():
    """By work alone the two wide layers part; what passes between them is eight times what others pass."""
    memory = {0: "64MiB", 1: "64MiB", "cpu": "1GiB"}
    with torch.device("meta"):
        model = Forked()
    inputs = (torch.zeros(64, 512, device="meta"),)
    plan = compile_model(model, max_memory=memory, objective="throughput", example_inputs=inputs)
    found = to_device_map(plan)
    assert plan.outcome.objective == "throughput"
    assert found.get("widen", found.get("")) == found.get("narrow", found.get(""))


def test_what_spills_is_computed_beside_the_cards_while_they_work():
    """A pipeline keeps all devices busy at once: a host that computes its share beats one that waits."""
    tree = leaves(**{f"l{i}": 100_000_000 for i in range(8)})
    devices = [Device("cuda:0", 6 * 10**8), Device("cpu", 10**10)]
    plan = placed(plan_of(tree, devices), objective="throughput")
    assert plan.outcome.objective == "throughput"
    assert plan.outcome.value >= plan.outcome.bound > 0
    streamed = placed(plan_of(tree, devices), objective="throughput", offload="stream")
    assert plan.outcome.value <= streamed.outcome.value

"""Seconds decide what is done with what does not fit: parts apart, simple ways first, a bound for time."""

from __future__ import annotations

from itertools import product

import pytest
from compile_plan.compiler.search.atoms import build
from compile_plan.compiler.search.costs import HOP_SECONDS, Costs, predict, speeds
from compile_plan.compiler.search.problem import Atom, Place, Problem, is_legal
from compile_plan.compiler.search.timing import counted_calls
from compile_plan.compiler.sources.config_work import config_work
from compile_plan.ir import Atomic, Device, Link, Work, Workload, verify
from hypothesis import given, settings
from hypothesis import strategies as st
from search_models import leaves, placed, plan_of, tree_of, where

MIB = 2**20
MIXTURE = {"num_experts": 64, "num_experts_per_tok": 4}
BLOCKS = (Atomic("Blk", by_class=True),)


def mixture(layers, attention=8, experts=64):
    """Return a mixture: layers of attention, experts and a norm that stays with the layer."""
    block = {
        "norm:Norm": 4096,
        "attn:Attention": {"q": attention * MIB // 2, "o": attention * MIB // 2},
        "mlp:Mixture": {
            "gate": 4096,
            "experts:Experts": {"up": experts * MIB // 2, "down": experts * MIB // 2},
        },
    }
    return tree_of({"layers:ModuleList": {f"{i}:Blk": block for i in range(layers)}, "head": 10 * MIB})


def plan_of_mixture(layers, card, **fields):
    tree = mixture(layers)
    devices = {"cuda:0": card * MIB, "cpu": 10**12}
    return plan_of(tree, devices, constraints=BLOCKS, work=config_work(MIXTURE, tree), **fields)


def test_experts_are_on_the_host_and_attention_on_the_card():
    found = where(placed(plan_of_mixture(6, 210)))
    assert set(found.values()) == {"cuda:0", "cpu"}
    assert all(path.endswith("mlp.experts") for path, place in found.items() if place == "cpu")
    assert 3 <= list(found.values()).count("cpu") <= 4


def test_a_plan_with_parts_apart_is_lawful_and_says_what_it_predicts():
    plan = placed(plan_of_mixture(6, 210))
    assert verify(plan) == ()
    told = plan.outcome.predicted
    assert plan.outcome.objective == "latency"
    assert told.seconds == plan.outcome.value >= plan.outcome.bound
    assert 0 < told.token < told.prompt
    assert told.simple_seconds >= told.seconds
    assert plan.workload == Workload()


def test_parts_fill_cards_that_whole_layers_leave_empty():
    tree = mixture(6)
    devices = (*(Device(f"cuda:{i}", 110 * MIB) for i in range(2)), Device("cpu", 10**12))
    plan = placed(plan_of(tree, devices, constraints=BLOCKS, work=config_work(MIXTURE, tree)))
    used = {account.device: account.weights for account in plan.ledger}
    assert used["cuda:0"] + used["cuda:1"] > 170 * MIB  # a layer takes 72


def test_only_what_is_allowed_is_done():
    stream, compute = (placed(plan_of_mixture(6, 210), offload=each) for each in ("stream", "compute"))
    assert all(unit.run == "cuda:0" for unit in stream.units)
    assert all(unit.run == unit.store for unit in compute.units)


def test_bytes_are_kept_where_bytes_are_asked_for():
    plan = placed(plan_of_mixture(6, 210), objective="accelerator-bytes")
    assert (plan.outcome.objective, plan.outcome.predicted) == ("accelerator-bytes", None)


def test_a_workload_line_decides_how_long_is_written():
    reading = placed(plan_of_mixture(6, 210, workload=Workload("generate", 1, 4096, 1)))
    writing = placed(plan_of_mixture(6, 210, workload=Workload("generate", 1, 1, 4096)))
    assert any(unit.store != unit.run for unit in reading.units)
    assert all(unit.store == unit.run for unit in writing.units)


@pytest.mark.parametrize("kind", ["forward", "loss"])
def test_a_forward_is_one_call_of_all_its_tokens(kind):
    assert counted_calls(Workload(kind, 8, 0, 512)) == ((4096, 1), (0, 0))


@settings(max_examples=40)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=5), st.integers(10, 80), st.sampled_from([1, 300]))
def test_no_placement_is_quicker_than_the_bound(sizes, card, prompt):
    devices = (Device("cuda:0", card * MIB), Device("cpu", 10**12))
    work = Workload("generate", 1, prompt, 8)
    plan = plan_of(leaves(**{f"m{i}": n * MIB for i, n in enumerate(sizes)}), devices, workload=work)
    found = placed(plan)
    problem = build(plan, plan.tree).problem
    ways = (Place(0, 0), Place(1, 1), Place(1, 0))
    legal = (list(each) for each in product(ways, repeat=len(sizes)))
    times = [predict(problem, each, work).priced for each in legal if is_legal(problem, each)]
    if sum(sizes) > card:
        assert found.outcome.bound <= min(times) * 1.003
        places = [ways.index(_place(found, f"m{i}")) for i in range(len(sizes))]
        assert predict(problem, [ways[p] for p in places], work).priced <= min(times) * 1.06


def _place(plan, path):
    index = {device.name: i for i, device in enumerate(plan.devices)}
    unit = max((u for u in plan.units if u.path in {"", path}), key=lambda u: len(u.path))
    return Place(index[unit.store], index[unit.run])


def test_a_call_takes_the_longer_of_its_computing_and_what_the_buffer_is_taken_for():
    """The buffer holds one streamed unit, from when its bytes set out until it was used."""
    devices = (Device("cuda:0", 10**9, bandwidth=10**9, link=10**8, flops=10**15), Device("cpu", 10**12))
    problem = build(plan := plan_of(leaves(a=10**6, b=10**6), devices), plan.tree).problem
    resident, streamed = Place(0, 0), Place(1, 0)
    work = Workload("generate", 1, 0, 1)
    both = predict(problem, [resident, resident], work).seconds
    one = predict(problem, [resident, streamed], work)
    assert both == pytest.approx(2e-3)
    assert (one.seconds, one.token.limit) == (pytest.approx(1.1e-2), "link to cuda:0")


@pytest.mark.parametrize(("latency", "seconds"), [(None, HOP_SECONDS), (5_000_000, 5e-3)])
def test_rows_that_are_chosen_wait_for_a_transfer_as_it_was_measured(latency, seconds):
    card = Device("cuda:0", 10**9, bandwidth=10**12, link=10**8, flops=10**15, latency=latency)
    atoms = (Atom((0,), 10**6, rows=True),)
    problem = Problem((card, Device("cpu", 10**12)), (10**9, 10**12), atoms)
    token = predict(problem, [Place(1, 0)], Workload("generate", 1, 0, 1)).token
    assert dict(token.parts)["rows to cuda:0"] == pytest.approx(seconds + 1e-2)


@pytest.mark.parametrize(("slower", "mixed"), [(1.8, True), (1.94, False)], ids=["10 %", "3 %"])
def test_a_mixture_is_kept_where_it_is_clearly_quicker(slower, mixed):
    """The rest is streamed; while the host computes a layer the buffer has room for one that travels."""
    link = 2 * 10**10
    card = Device("cuda:0", 600 * MIB, bandwidth=10**12, link=link, flops=10**15)
    devices = (card, Device("cpu", 10**12, bandwidth=int(link / slower), flops=10**15))
    plan = placed(plan_of(leaves(**{f"l{i}": 20 * MIB for i in range(60)}), devices))
    assert ({unit.run for unit in plan.units} == {"cuda:0", "cpu"}) == mixed
    assert plan.outcome.bound <= plan.outcome.value
    if mixed:
        assert plan.outcome.value <= 0.95 * plan.outcome.predicted.simple_seconds


def test_few_rows_reach_less_than_one_reads_and_many_compute():
    told = speeds(Device("cpu", 1, bandwidth=10**10, few=10**9, flops=10**11))
    by_rows = [told.product(10**6, rows * 10**6 / 2, rows) for rows in (1, 8, 16, 128, 256, 2560)]
    assert by_rows[0] == pytest.approx(1e-4)
    assert by_rows[2] == pytest.approx(1e-3)
    assert by_rows[5] == pytest.approx(10 * 256 * 5e-6)
    assert by_rows == sorted(by_rows)
    unknown = speeds(Device("cpu", 1, bandwidth=10**10, flops=10**11))
    assert unknown.product(10**6, 16 * 10**6 / 2, 16) == pytest.approx(1e-4)


def test_an_expert_meets_its_share_of_a_prompt():
    tree = mixture(1)
    devices = (Device("cpu", 10**12, bandwidth=10**10, few=10**9, flops=10**15),)
    plan = plan_of(tree, devices, constraints=BLOCKS, work=config_work(MIXTURE, tree))
    model = build(plan, tree, parts=True)
    costs, host = Costs(model.problem), Place(0, 0)
    experts = [a for a in model.problem.atoms if ".experts." in model.grains[a.grains[0]].path]
    one, prompt = (sum(costs.of(part, host, tokens).memory for part in experts) for tokens in (1, 256))
    assert one == pytest.approx(64 * MIB * 4 / 64 / 1e10)  # 4 of 64, each meets one row
    assert prompt == pytest.approx(64 * MIB / 1e9)  # all of them, 16 rows each


def test_a_link_between_cards_is_what_a_hop_takes():
    devices = (Device("cuda:0", 100), Device("cuda:1", 100), Device("cpu", 100))
    plan = plan_of(leaves(a=10, b=10), devices, links=(Link("cuda:1", "cuda:0", 10**11, 2_000),))
    costs = Costs(build(plan, plan.tree).problem)
    assert costs.hop(1, 0, 1) == costs.hop(1, 1, 0) == pytest.approx(2e-6, rel=0.01)
    assert costs.hop(1, 0, 2) > 1e-5


def test_a_configuration_tells_which_experts_a_token_takes():
    tree = mixture(2)
    rows = config_work({"text_config": MIXTURE}, tree)
    assert [row.path for row in rows] == [f"layers.{i}.mlp.experts" for i in range(2)]
    assert {row.flops for row in rows} == {2 * 64 * MIB * 4 // 64}
    assert config_work({}, tree) == ()
    table = tree_of({"embed_tokens:Embedding": 10, "head": 10})
    assert config_work({}, table) == (Work(0, "embed_tokens", 1),)

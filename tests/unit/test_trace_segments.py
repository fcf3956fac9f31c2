"""What torch's allocator holds beyond what is alive: its published rules, and a line of every accelerator."""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random

import pytest
from card_allocator import Allocator, OutOfMemory
from card_requests import played, traced
from checkpoints import write_shards
from compile_plan.compiler import compile_model, compile_plan
from compile_plan.compiler.answers.explain_device import device_facts
from compile_plan.compiler.machine.allocator import (
    LAYOUT,
    WORKSPACES,
    least,
    most_alive,
    most_reserved,
)
from compile_plan.compiler.tracing import trace_model
from compile_plan.compiler.tracing.generating import with_mask, with_prompt
from compile_plan.compiler.tracing.moments import Use, try_moments
from compile_plan.compiler.tracing.segments import events_of, held_beyond
from compile_plan.ir import Diagnostics, Reserve
from small_models import small_model
from torch import nn, no_grad, optim, zeros

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import activation_peaks
import card_ledger

MIB = 1 << 20


def made(*mib):
    """Storages that stay, numbered from 1."""
    return [(number, int(size * MIB)) for number, size in enumerate(mib, 1)]


@pytest.mark.parametrize(
    ("mib", "reserved"),
    [
        ((0.001,), 2),
        ((1, 1, 1), 4),
        ((1.5,), 20),
        ((9, 9, 9), 40),
        ((10,), 10),
        ((10.5,), 12),
        ((13, 7), 34),
        ((30.5, 0.5), 34),
    ],
)
def test_segments_are_as_large_as_their_requests_ask_for(mib, reserved):
    assert most_reserved([], made(*mib)) == reserved * MIB


def test_what_is_let_go_is_joined_and_taken_again():
    events = [*made(6, 6, 6), (1, 0), (2, 0), (4, 12 * MIB)]
    assert most_reserved([], events) == 20 * MIB
    assert (
        most_reserved([], [*made(6, 6, 6), (1, 0), (3, 0), (4, 12 * MIB)]) == 32 * MIB
    )  # a hole on either side


def test_a_smaller_request_splits_a_block_and_keeps_its_segment():
    events = [(1, 64 * MIB), (1, 0), (2, 12 * MIB), (3, 64 * MIB)]
    assert most_reserved([], events) == 128 * MIB
    assert most_alive(events) == 76 * MIB
    assert most_reserved([], events, 127 * MIB) is None
    assert most_reserved([], events, 128 * MIB) == 128 * MIB


def test_at_the_limit_segments_that_are_free_are_given_back():
    events = [(1, 64 * MIB), (1, 0), (2, 100 * MIB)]
    assert most_reserved([], events) == 164 * MIB
    assert most_reserved([], events, 100 * MIB) == 100 * MIB
    assert 100 * MIB <= least([], events) <= 102 * MIB


def test_a_forward_needs_no_less_than_what_is_alive():
    model = nn.Sequential(*(nn.Linear(2048, 2048) for _ in range(3)))
    trace = trace_model(model, zeros(3000, 2048))
    assert most_alive(events_of(trace)) == trace.activation_peak + 3000 * 2048 * 4
    assert 0 <= held_beyond([trace]) - WORKSPACES - LAYOUT <= 22 * MIB
    assert held_beyond([]) == WORKSPACES + LAYOUT


def planned(memory="1GiB", **options):
    return compile_model(small_model("llama"), max_memory={0: memory, 1: memory, "cpu": "1GiB"}, **options)


def test_every_accelerator_has_the_line_where_a_workload_is_asked_for():
    plan = planned(rows=1)
    kept = [each for each in plan.reserves if each.purpose == "allocator"]
    assert [each.device for each in kept] == ["cuda:0", "cuda:1"]
    assert all(WORKSPACES + LAYOUT <= each.nbytes <= WORKSPACES + LAYOUT + 24 * MIB for each in kept)
    assert [account.runtime for account in plan.ledger] == [kept[0].nbytes, kept[1].nbytes, 0]
    assert not any(each.purpose == "allocator" for each in plan.demands)
    again = compile_plan(plan, max_memory={0: "2GiB", "cpu": "1GiB"})
    assert [each for each in again.reserves if each.purpose == "allocator"] == kept[:1]


@pytest.mark.parametrize(
    "options",
    [{}, {"rows": 1, "memory": "64MiB"}, {"rows": 1, "runtime": 0}, {"rows": 1, "strategy": "balanced"}],
    ids=str,
)
def test_nothing_is_kept_where_nobody_asks_or_somebody_says_what_is_taken(options):
    assert [account.runtime for account in planned(**options).ledger] == [0, 0, 0]


def test_a_line_of_a_person_stands_in_its_place():
    plan = planned(rows=1, overrides='reserve 7MiB on cuda:0 for "allocator"')
    assert Reserve(7 * MIB, "cuda:0", "allocator") in plan.reserves
    assert [account.runtime > 7 * MIB for account in plan.ledger] == [False, True, False]
    assert plan.ledger[0].runtime == 7 * MIB


def played_plainly(events, limit, *, descend):
    """Return what the allocator of the tests reserves at most; None where the limit is too low."""
    allocator, parts = Allocator(limit, descend), {}
    try:
        for number, nbytes in events:
            if nbytes:
                parts[number] = allocator.malloc(nbytes)
            else:
                allocator.free(parts.pop(number))
    except OutOfMemory:
        return None
    return allocator.highest


@pytest.mark.parametrize("seed", range(12))
def test_what_is_reserved_is_what_an_allocator_written_apart_reserves(seed):
    random = Random(seed)  # noqa: S311
    events, there = [], []
    for number in range(160):
        if there and random.random() < 0.48:
            events.append((there.pop(random.randrange(len(there))), 0))
        else:
            events.append(
                (number, random.choice([300, 70_000, MIB, 2 * MIB, 6 * MIB, 9 * MIB, 12 * MIB, 31 * MIB]))
            )
            there.append(number)
    for descend in (False, True):
        most = most_reserved([], events, descend=descend)
        assert most == played_plainly(events, None, descend=descend)
        for limit in range(most_alive(events), most, 7 * MIB):
            assert most_reserved([], events, limit, descend=descend) == played_plainly(
                events, limit, descend=descend
            )
        limit = least([], events, descend=descend)
        assert played_plainly(events, limit, descend=descend) is not None


@pytest.mark.parametrize(
    ("name", "kind"), [("gpt2", "generate"), ("mistral, window of 16", "generate"), ("llama", "forward")]
)
def test_plans_at_tight_budgets_find_their_place(name, kind):
    sizes, tokens = card_ledger.LARGE, 4 if kind == "generate" else 0
    beside = with_prompt if tokens else with_mask
    traces = traced(sizes.model(name), sizes.rows, sizes.prompt, tokens, beside)
    for _, budget, plan in card_ledger.planned(sizes, name, kind, card_ledger.TIGHT).tight:
        for descend in (False, True):
            allocator = Allocator(budget - WORKSPACES, descend)
            played(plan, traces, allocator)
            assert allocator.highest <= budget - WORKSPACES


def steps_of_training(model, optimizer, inputs):
    """Return what real steps make and let go, all parameters at once as on a card."""
    step = optimizer(model.train().parameters(), lr=1e-3, foreach=True)
    with activation_peaks.watched(model, inputs) as live:
        for _ in range(3):
            returned = model(**inputs, labels=inputs["input_ids"])
            returned.loss.backward()
            del returned
            step.step()
            step.zero_grad()
    sizes = dict(reversed(live.events))  # the bytes of each, as it is made first
    return [each for each in live.events if sizes[each[0]]]


WIDE = {**card_ledger.DENSE, "hidden_size": 512, "num_attention_heads": 8, "num_key_value_heads": 2}


@pytest.mark.parametrize("optimizer", [optim.AdamW, optim.SGD])
@pytest.mark.parametrize("sizes", [{"num_hidden_layers": 2}, {"num_hidden_layers": 3, "vocab_size": 4000}])
def test_a_step_of_training_finds_its_place(sizes, optimizer):
    """Attention goes step by step: fused, a card asks for other things than the CPU."""
    model = activation_peaks.built("llama", **{**WIDE, **sizes, "attn_implementation": "eager"})
    options = {"workload": "train", "rows": 2, "prompt": 128, "optimizer": optimizer.__name__.lower()}
    account = compile_model(model, max_memory={0: "64GiB", "cpu": "64GiB"}, **options).ledger[0]
    inputs = activation_peaks.padded(activation_peaks.real_inputs(model, 2, 128))
    events = steps_of_training(model, optimizer, inputs)
    least = account.total - account.margin - WORKSPACES
    bare = least - LAYOUT
    for limit, descend in ((least, False), (least, True), (bare, False), (bare, True)):
        allocator = Allocator(limit, descend)
        for parameter in model.parameters():
            allocator.malloc(parameter.nbytes)
        parts = {}
        for number, nbytes in events:
            if nbytes:
                parts[number] = allocator.malloc(nbytes)
            else:
                allocator.free(parts.pop(number))


def test_the_way_back_goes_in_the_order_of_real_steps():
    """Compared is what is larger than anything of attention, which the CPU computes in its own way."""
    model, least = activation_peaks.built("llama", **{**WIDE, "head_dim": 32}), 2 * 128 * 512 * 4
    told = try_moments(model, None, Diagnostics(), batch=2, seq=128, use=Use("train")).training.peaks.events
    inputs = activation_peaks.padded(activation_peaks.real_inputs(model, 2, 128))
    real = sizes_in_order(steps_of_training(model, optim.AdamW, inputs), least)
    assert sizes_in_order(told, least) == real[: len(sizes_in_order(told, least))]


def sizes_in_order(events, least):
    sizes, found = {}, []
    for number, nbytes in events:
        sizes[number] = -(-nbytes // 512) * 512 or sizes[number]
        found += [sizes[number] if nbytes else -sizes[number]] * (sizes[number] >= least)
    return found


ODD = {
    **card_ledger.DENSE, "hidden_size": 900, "intermediate_size": 2777, "num_attention_heads": 9,
    "num_key_value_heads": 3, "head_dim": 100, "num_hidden_layers": 4, "vocab_size": 12_345,
}  # fmt: skip


@pytest.mark.parametrize("kind", ["generate", "forward"])
def test_what_is_too_little_to_be_split_off_counts_once(kind, tmp_path):
    """Real steps: what is asked for is told to the byte, what stays of it in the allocator's line alone.

    So it is without a trace, where what a forward needs is an estimate.
    """
    model = activation_peaks.built("llama", **ODD)
    written = {"generate": activation_peaks.WRITTEN} if kind == "generate" else {"workload": kind}
    options = {"rows": 2, "prompt": 192, "max_memory": {0: "64GiB", "cpu": "64GiB"}}
    account = compile_model(model, **options, **written).ledger[0]
    inputs = activation_peaks.real_inputs(model, 2, 192)
    with activation_peaks.watched(model, inputs) as live, no_grad():
        activation_peaks.RUNS[kind](model, inputs)
    allocator, needed = asked_of(model, live.events)
    told = account.total - account.margin - account.runtime
    alive = live.peak + sum(each.nbytes for each in model.parameters())
    assert alive <= told <= 1.001 * alive
    assert allocator.most - told > 2 * MIB  # what was handed out, and is in the line
    assert needed <= told + account.runtime - WORKSPACES - LAYOUT <= 1.005 * needed
    stored = {name: ("F32", each.shape) for name, each in model.named_parameters()}
    config = {**model.config.to_dict(), "dtype": "float32"}
    headers = compile_plan(write_shards(tmp_path, stored, 1, config=config), **options, **written).ledger[0]
    assert WORKSPACES + LAYOUT + 2 * MIB < headers.runtime < account.runtime + 2 * LAYOUT
    assert needed <= headers.total - headers.margin - WORKSPACES - LAYOUT


def asked_of(model, events):
    """Return the allocator of the tests after steps without a limit, and the least limit that they need."""

    def steps(limit, *, descend):
        allocator, parts = Allocator(limit, descend), {}
        for parameter in model.parameters():
            allocator.malloc(parameter.nbytes)
        for number, nbytes in events:
            if nbytes:
                parts[number] = allocator.malloc(nbytes)
            elif number in parts:
                allocator.free(parts.pop(number))
        return allocator

    def finds_its_place(limit):
        try:
            return [steps(limit, descend=descend) for descend in (False, True)]
        except OutOfMemory:
            return []

    free, whole = steps(None, descend=False), 2 * MIB  # what segments are multiples of
    limits = range(free.asked_most // whole * whole, 1 << 40, whole)
    return free, next(limit for limit in limits if finds_its_place(limit))


@pytest.mark.parametrize(
    ("name", "reserved"), [("gpt2", 454), ("llama, eager attention", 504), ("bart", 446)]
)
def test_what_an_h100_reserved_is_reserved(name, reserved):
    sizes = card_ledger.LARGE
    plan = sizes.compiled(name, "generate", 1 << 40)
    allocator = Allocator()
    played(plan, traced(sizes.model(name), sizes.rows, sizes.prompt, 2), allocator)
    assert abs(allocator.highest - reserved * MIB) <= 2 * MIB


def test_a_device_tells_what_its_allocator_holds():
    told = dict(device_facts(planned(rows=1), "cuda:0"))
    assert "torch's allocator reserves beyond what is alive" in told["runtime"]
    assert "runtime" not in dict(device_facts(planned(rows=1), "cpu"))

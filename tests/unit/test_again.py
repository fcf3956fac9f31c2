"""Placing a plan again: what people wrote stays, an option given again wins once, the rest is found anew."""

from __future__ import annotations

import pytest
import torch
from compile_plan.backends import read_plan, write_plan
from compile_plan.compiler import compile_model, compile_plan
from compile_plan.grammar import print_plan
from compile_plan.ir import PlanError, Reason, Reserve
from torch import nn

KIB = 1024
BUDGETS = {0: "40KiB", 1: "40KiB", "cpu": "1MiB"}


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(16, 32)
        self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(8))
        self.head = nn.Linear(32, 16)

    def forward(self, ids):
        x = self.embed(ids)
        for layer in self.layers:
            x = x + layer(x)
        return self.head(x)


INPUTS = {"ids": torch.zeros(1, 4, dtype=torch.int64)}


def compiled(**options):
    return compile_model(Decoder(), **{"max_memory": BUDGETS, **options})


def saved(plan, tmp_path, name="p.msgpack"):
    path = tmp_path / name
    write_plan(plan, path)
    return path


def cached(plan):
    return sum(each.nbytes for each in plan.demands if each.purpose == "kv cache")


OPTIONS = [
    {}, {"kv_cache": 4 * KIB}, {"margin": KIB}, {"runtime": KIB}, {"reserves": {0: 2 * KIB}},
    {"strategy": "balanced"}, {"objective": "balance"}, {"overrides": "place head on cuda:1\n"},
    {"no_split_module_classes": ["Linear"]}, {"dtype": "bfloat16"}, {"example_inputs": INPUTS},
    {"example_inputs": INPUTS, "kv_cache": 4 * KIB}, {"special_dtypes": {"head.weight": "float16"}},
    {"overrides": 'reserve 1KiB on cuda:0 for "mine"\ndemand 1KiB with layers.* for "kv cache"\n'},
    {"overrides": "never layers.2 on cuda:0\nplace embed on cpu run on cpu\n", "offload": "compute"},
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=lambda each: ",".join(each) or "plain")
def test_a_plan_of_text_is_placed_again_from_what_people_wrote(options, tmp_path):
    """As the same plan of msgpack is: a text says what a compile added, and holds the module table."""
    first = compiled(**options)
    text = tmp_path / "p.plan"
    text.write_text(print_plan(first, with_modules=True), "utf-8")
    less = {0: "24KiB", 1: "40KiB", "cpu": "1MiB"}
    again = [compile_plan(plan, max_memory=less) for plan in (first, text)]
    assert [(u.path, u.store, u.run) for u in again[0].units] == [
        (u.path, u.store, u.run) for u in again[1].units
    ]
    assert {u.reason for u in again[1].units if u.path == "head"} <= (
        {Reason.WRITTEN} if "place head" in str(options) else {u.reason for u in again[0].units}
    )


@pytest.mark.parametrize("options", OPTIONS, ids=lambda each: ",".join(each) or "plain")
def test_a_plan_placed_again_with_the_same_options_is_the_same_file(options, tmp_path):
    first = saved(compiled(**options), tmp_path)
    kept = {key: value for key, value in options.items() if key not in {"overrides", "example_inputs"}}
    again = saved(compile_plan(first, max_memory=BUDGETS, **kept), tmp_path, "again.msgpack")
    assert again.read_bytes() == first.read_bytes()
    once_more = saved(compile_plan(first, offload_buffers=False), tmp_path, "third.msgpack")
    assert once_more.read_bytes() == first.read_bytes()


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize(("first", "second"), [(0, 8 * KIB), (8 * KIB, 4 * KIB), (4 * KIB, 0), (1001, 1003)])
def test_the_cache_of_the_last_option_counts_and_only_it_f12(traced, first, second, tmp_path):
    inputs = {"example_inputs": INPUTS} if traced else {}
    plan = compiled(kv_cache=first, **inputs)
    assert cached(plan) == first
    again = compile_plan(saved(plan, tmp_path), kv_cache=second)
    assert cached(again) == second
    assert sum(account.kv_cache for account in again.ledger) == second
    assert dict(again.options)["kv-cache"] == str(second)


def test_the_cache_a_person_wrote_and_an_option_cannot_both_count():
    with pytest.raises(PlanError) as caught:
        compiled(kv_cache=KIB, overrides='demand 1KiB with head for "kv cache"\n')
    assert caught.value.diagnostics[0].code == "contradiction"


def test_margins_reserves_and_pins_of_people_stay_under_new_budgets(tmp_path):
    lines = (
        'device cuda:0 memory 40KiB margin 3KiB\nreserve 1KiB on cuda:1 for "mine"\nplace head on cuda:1\n'
    )
    plan = compiled(overrides=lines)
    again = compile_plan(saved(plan, tmp_path), max_memory={0: "60KiB", 1: "60KiB", "cpu": "1MiB"})
    assert [(each.memory, each.margin) for each in again.devices][:2] == [(60 * KIB, 3 * KIB), (60 * KIB, 0)]
    assert again.reserves == (Reserve(KIB, "cuda:1", "mine"),)
    assert next(unit.store for unit in again.units if unit.path == "head") == "cuda:1"


def test_a_margin_given_again_wins_on_every_accelerator(tmp_path):
    first = saved(compiled(margin=2 * KIB), tmp_path)
    assert {each.margin for each in compile_plan(first, objective="balance").devices[:2]} == {2 * KIB}
    again = compile_plan(first, margin=KIB)
    assert [each.margin for each in again.devices] == [KIB, KIB, 0]
    assert dict(again.options) == {"margin": str(KIB)}
    none = compile_plan(first, margin=0)
    assert [each.margin for each in none.devices] == [0, 0, 0]


def test_a_reserve_given_again_replaces_and_others_stay(tmp_path):
    first = saved(compiled(reserves={0: KIB, 1: 2 * KIB}), tmp_path)
    again = compile_plan(first, reserves={1: "3KiB"})
    assert again.reserves == (Reserve(KIB, "cuda:0"), Reserve(3 * KIB, "cuda:1"))


@pytest.mark.parametrize("runtime", [0, KIB, 2 * KIB])
def test_the_runtime_is_that_of_the_last_option(runtime, tmp_path):
    first = saved(compiled(runtime=4 * KIB), tmp_path)
    again = compile_plan(first, runtime=runtime)
    assert [account.runtime for account in again.ledger][:2] == [runtime, runtime]


def test_an_option_that_is_as_it_always_is_can_be_given_again(tmp_path):
    first = saved(compiled(strategy="balanced", offload_buffers=True), tmp_path)
    assert dict(compile_plan(first, margin=0).options)["strategy"] == "balanced"
    again = compile_plan(first, strategy="auto", offload_buffers=False)
    assert "strategy" not in dict(again.options)
    assert "offload-buffers" not in dict(again.options)


def test_another_dtype_is_counted_from_the_weights_not_from_the_last_dtype(tmp_path):
    whole = sum(account.weights for account in compiled().ledger)
    first = saved(compiled(dtype="float16"), tmp_path)
    again = compile_plan(first, dtype="float32")
    assert sum(account.weights for account in again.ledger) == whole


def test_classes_named_again_replace_those_named_before(tmp_path):
    first = saved(compiled(no_split_module_classes=["Linear"]), tmp_path)
    again = compile_plan(first, no_split_module_classes=["ModuleList"])
    assert [rule.target for rule in again.constraints] == ["ModuleList"]
    assert read_plan(first).constraints[0].target == "Linear"


def test_a_pin_on_a_device_that_is_gone_is_said(tmp_path):
    first = saved(compiled(overrides="place head on cuda:1\n"), tmp_path)
    with pytest.raises(PlanError) as caught:
        compile_plan(first, max_memory={0: "60KiB", "cpu": "1MiB"})
    assert [each.code for each in caught.value.diagnostics] == ["undeclared-device"]


def test_what_a_compile_placed_is_free_again(tmp_path):
    first = saved(compiled(), tmp_path)
    again = compile_plan(first, max_memory={"cpu": "1MiB"})
    assert {unit.store for unit in again.units} == {"cpu"}


def test_a_finished_plan_comes_back_as_it_is(tmp_path):
    plan = compiled()
    assert compile_plan(plan) == plan
    assert compile_plan(saved(plan, tmp_path)) == plan

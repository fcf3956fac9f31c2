"""What an accelerator's driver takes: a line of the ledger of its own, from the option or the origin."""

from __future__ import annotations

import pytest
from compile_plan.compiler import compile_model
from compile_plan.compiler.machine.this_machine import FREE_BY_TOOL, FREE_BY_TORCH
from compile_plan.compiler.passes.reserve_runtime import ReserveRuntime
from compile_plan.ir import Device, Diagnostics, Model, Plan, PlanError, Reserve
from torch import nn

MIB = 2**20


def reserved(nbytes, *devices, reserves=()):
    plan = Plan(Model("m"), devices=devices, reserves=reserves)
    once = ReserveRuntime(nbytes).run(plan, Diagnostics())
    assert ReserveRuntime(nbytes).run(once, Diagnostics()) == once
    return {reserve.device: reserve.nbytes for reserve in once.reserves if reserve.purpose == "runtime"}


@pytest.mark.parametrize(
    ("origin", "nbytes"), [(FREE_BY_TOOL, 512 * MIB), (FREE_BY_TORCH, 128 * MIB), ("given", None), ("", None)]
)
def test_what_is_usual_is_taken_of_a_budget_read_here_and_nothing_of_a_given_one(origin, nbytes):
    found = reserved(None, Device("cuda:0", 8192 * MIB, origin=origin), Device("cpu", 99, origin=origin))
    assert found == ({} if nbytes is None else {"cuda:0": nbytes})


def test_the_ledger_has_a_line_for_it():
    model = nn.Linear(64, 64, bias=False)
    plan = compile_model(model, max_memory={0: "1MiB", "cpu": "1MiB"}, runtime=4096)
    assert [(each.device, each.runtime, each.reserve) for each in plan.ledger] == [
        ("cuda:0", 4096, 0),
        ("cpu", 0, 0),
    ]
    assert plan.ledger[0].total == 4096 + 64 * 64 * 4
    spilled = compile_model(model, max_memory={0: 64 * 64 * 4, "cpu": "1MiB"}, runtime=1)
    assert [unit.store for unit in spilled.units] == ["cpu"]


def test_a_machine_description_replaces_what_was_read_here():
    text = "device cuda:0 memory 1MiB\ndevice cpu memory 1MiB\n"
    plan = compile_model(nn.Linear(4, 4), overrides=text, runtime=4096)
    assert plan.reserves == (Reserve(4096, "cuda:0", "runtime"),)
    assert compile_model(nn.Linear(4, 4), overrides=text).reserves == ()


def test_a_negative_amount_is_refused():
    with pytest.raises(PlanError, match="runtime"):
        compile_model(nn.Linear(4, 4), max_memory={0: 99}, runtime=-1)

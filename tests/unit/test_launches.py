"""What a plan knows of asking for operations: counted, measured, kept, told, and never decided by."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import msgpack
import pytest
import torch
from compile_plan.backends.columns import pack_column
from compile_plan.backends.later_tables import LATER
from compile_plan.backends.msgpack_file import decode, encode_plan
from compile_plan.compiler.machine.calibration import Products, Speed, best
from compile_plan.compiler.machine.launching import launch_seconds
from compile_plan.compiler.machine.machine_file import encoded, machine_path, read_machine, with_measured
from compile_plan.compiler.passes.apply_overrides import ApplyOverrides
from compile_plan.compiler.search.launches import Launches, launches_of
from compile_plan.grammar import parse, print_plan
from compile_plan.ir import Device, Diagnostics, Model, Plan, PlanError, Work, Workload
from search_models import placed, plan_of, tree_of

MIB = 2**20
CARD = Device("cuda:0", 64 * MIB, bandwidth=10**12, flops=10**15, link=10**10, launch=10_000)
HOST = Device("cpu", None, bandwidth=10**11, flops=10**12, launch=5_000)
WORK = (Work(8 * MIB, "a", 1, 30), Work(8 * MIB, "b", 1, 10))


def told(*lines, work=WORK, devices=(CARD, HOST)):
    """Return what is predicted of two products of 4 MiB, one token at a time."""
    tree = tree_of({"a": 4 * MIB, "b": 4 * MIB})
    text = "plan 1\ndevice cuda:0\ndevice cpu\n" + "".join(f"{line}\n" for line in lines)
    fields = {"units": parse(text).units, "work": work, "workload": Workload("generate", 1, 1, 1)}
    return placed(plan_of(tree, devices, **fields))


def test_a_card_is_asked_while_it_computes_and_a_processor_before():
    on_card = told("place a on cuda:0", "place b on cuda:0").outcome.predicted
    last = 8 * MIB / 10**12 / 40  # all but the last is done while more is asked for
    assert on_card.token == pytest.approx(40 * 10e-6 + last)
    assert (on_card.token_limit, on_card.prompt_limit) == ("launching", "launching")
    on_host = told("place a on cpu", "place b on cpu").outcome.predicted
    assert on_host.token == pytest.approx(8 * MIB / 10**11 + 40 * 5e-6)


def test_what_takes_longer_than_asking_hides_it():
    slow = replace(CARD, bandwidth=10**9)
    predicted = told("place a on cuda:0", "place b on cuda:0", devices=(slow, HOST)).outcome.predicted
    assert predicted.token == pytest.approx(8 * MIB / 10**9)
    assert (predicted.token_limit, predicted.prompt_limit) == ("memory of cuda:0", "memory of cuda:0")


def test_asking_decides_nothing():
    small = replace(CARD, memory=6 * MIB)
    counted = told(devices=(small, HOST))
    silent = told(devices=(small, HOST), work=tuple(replace(row, launches=0) for row in WORK))
    assert counted.units == silent.units
    assert counted.outcome.value == silent.outcome.value
    assert counted.outcome.predicted.token > silent.outcome.predicted.token


def test_a_row_of_several_grains_is_shared_out_by_their_bytes():
    tree = tree_of({"a": {"q": 3 * MIB, "o": MIB}, "b": MIB})
    plan = Plan(Model("m"), work=(Work(8, "a", 1, 40), Work(8, "b", 1, 4)))
    found = launches_of(plan, tree, [0, 1, 2], 3)
    assert [each.of(1) for each in found] == [each.of(512) for each in found] == [30, 10, 4]
    assert launches_of(replace(plan, work=(Work(8, "a", 1),)), tree, [0, 1, 2], 3) == ()


def test_a_loop_over_experts_asks_for_those_a_call_meets():
    tree = tree_of({"experts:ModuleList": {str(each): MIB for each in range(8)}})
    weights = sum(tree.nbytes)
    loop = Work(2 * weights // 4 * 16, "experts", 16, 8 * 20)  # 2 of 8 a token; 16 tokens met all
    found = launches_of(Plan(Model("m"), work=(loop,)), tree, [0] * 8, 1)
    assert [found[0].of(tokens) for tokens in (1, 2, 16)] == pytest.approx([40, 80, 160])
    at_once = launches_of(Plan(Model("m"), work=(replace(loop, launches=24),)), tree, [0] * 8, 1)
    assert at_once == (Launches(24.0),)
    idle = launches_of(Plan(Model("m"), work=(replace(loop, flops=0),)), tree, [0] * 8, 1)
    assert idle == (Launches(160.0),)


def test_files_without_launches_have_no_table_of_them_and_others_come_back():
    plan = Plan(Model("m"), (CARD, replace(HOST, launch=None)), work=(Work(1, "a", 0, 0), *WORK))
    again = decode(encode_plan(plan))
    assert (again.devices, again.work) == (plan.devices, plan.work)
    written = parse(print_plan(plan))
    assert (written.devices, written.work) == (plan.devices, plan.work)
    silent = Plan(Model("m"), (replace(CARD, launch=None),), work=(Work(1, "a"),))
    assert not set(LATER) & set(msgpack.unpackb(msgpack.unpackb(encode_plan(silent))["body"]))


@pytest.mark.parametrize(
    ("rows", "values"), [((), ()), ((2,), (1,)), ((0, 0), (1, 1)), ((1, 0), (1, 1)), ((0,), (1, 2))]
)
def test_rows_that_are_not_there_or_there_twice_are_refused(rows, values):
    data = msgpack.unpackb(encode_plan(Plan(Model("m"), work=WORK)))
    tables = msgpack.unpackb(data["body"]) | {
        "work_launches": {"work": pack_column(rows), "count": pack_column(values)}
    }
    body = msgpack.packb(tables)
    changed = data | {"body": body, "checksum": hashlib.sha256(body).digest()}
    with pytest.raises(PlanError) as caught:
        decode(msgpack.packb(changed))
    assert caught.value.diagnostics[0].code == "invalid-plan-file"
    assert "work_launches" in caught.value.diagnostics[0].notes[0]


def test_a_machine_says_how_long_asking_takes_and_a_line_may_know_better(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    products = {"float16": Products(8 * 10**11, 10**14)}
    measured = Speed("cuda:0", "Card X", 10**12, 10**10, 2e-5, products, 1.25e-5)
    machine_path().parent.mkdir(parents=True)
    machine_path().write_text(encoded([measured]))
    assert read_machine(machine_path(), Diagnostics()) == (measured,)
    assert [each.launch for each in with_measured([Device("cuda:0", 1)], [measured], None)] == [12_500]
    assert [each.launch for each in with_measured([CARD], [measured], None)] == [10_000]
    content = json.loads(encoded([measured]))
    del content["devices"]["cuda:0"]["launch"]  # as earlier versions wrote it
    machine_path().write_text(json.dumps(content))
    assert read_machine(machine_path(), Diagnostics()) == (replace(measured, launch=None),)


def test_asking_is_measured_where_there_is_a_device_and_leaves_threads_as_they_were():
    threads = torch.get_num_threads()
    assert 0 < launch_seconds(torch, "cpu", best) < 0.1
    assert launch_seconds(torch, "cuda:77", best) is None
    assert torch.get_num_threads() == threads


def test_a_line_that_renews_a_budget_leaves_the_time_to_ask():
    plan = Plan(Model("m"), (CARD, HOST), tree=tree_of({"a": MIB}))
    override = parse("plan 1\ndevice cuda:0 memory 32MiB\nplace a on cuda:0\n")
    renewed, _ = ApplyOverrides((override,)).run(plan, Diagnostics()).devices
    assert renewed == replace(CARD, memory=32 * MIB)

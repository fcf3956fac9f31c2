from __future__ import annotations

import hashlib
import json
import pickle
import re
from pathlib import Path

import msgpack
import pytest
from compile_plan.backends import read_plan, to_device_map
from compile_plan.backends.msgpack_file import decode, encode_plan
from compile_plan.grammar import parse
from compile_plan.ir import (
    STREAMING,
    Account,
    Atomic,
    Cache,
    Demand,
    Device,
    Diagnostic,
    Link,
    Model,
    Never,
    Outcome,
    Phase,
    Plan,
    PlanError,
    Prediction,
    Reason,
    Reserve,
    Role,
    Rule,
    Severity,
    Split,
    TieGroup,
    Together,
    Unit,
    Work,
    Workload,
)
from planfile_strategies import tree_of
from steps import counted

ROOT = Path(__file__).parents[2]
FIXTURE = ROOT / "tests" / "data" / "v1.msgpack"
GIB = 2**30


def plan_of_the_fixture() -> Plan:
    """One of everything; never change it, the committed file must be read for ever."""
    tied = ["embed.weight", "head.weight"]
    tensors = {
        "embed.weight": 600,
        "layers.0.w": 100,
        "layers.1.w": 100,
        "layers.1.freq": 8,
        "head.weight": 600,
    }
    tree = tree_of(tensors, ties=dict.fromkeys(tied, tied), roles={"layers.1.freq": Role.TRANSIENT})
    newer = Rule("rule-of-a-later-version", Severity.WARNING, "what it is about")
    return Plan(
        model=Model("tiny", tree.digest),
        devices=(
            Device(
                "cuda:0",
                900,
                20,
                origin="given",
                bandwidth=10**12,
                few=8 * 10**11,
                link=10**10,
                flops=10**14,
                latency=12_000,
                dtype_flops=(("bfloat16", 3 * 10**14),),
                measured="measured",
            ),
            Device("cpu", GIB, pool="host", pool_memory=2 * GIB),
            Device("disk", None, at="offload/"),
        ),
        options=(("offload", "stream"), ("strategy", "auto")),
        constraints=(
            Atomic("Attention", by_class=True),
            Atomic("layers.0"),
            Split("layers"),
            Never("head", "disk"),
            Never("embed", STREAMING, added=True),
            Together(("embed", "head")),
            Phase(("layers", "head"), added=True),
        ),
        ties=(TieGroup(tuple(tied)),),
        reserves=(Reserve(64, "cuda:0", "kv cache", added=True),),
        demands=(Demand(16, "layers.0", "activations", added=True),),
        work=(Work(12_800, "layers.0", 64), Work(7, "head")),
        units=(
            Unit("embed", "cuda:0", "cuda:0", Reason.GREEDY),
            Unit("layers.0", "cuda:0", "cuda:0", Reason.WRITTEN),
            Unit("layers.1", "cpu", "cuda:0", Reason.SPILLED, by_rows=True),
            Unit("head", "cuda:0", "cuda:0", Reason.TIED),
        ),
        links=(Link("cuda:0", "cpu", 10**10, 80_000), Link("cuda:0", "disk", 10**9)),
        workload=Workload("generate", 1, 512, 128, added=True),
        caches=(Cache(4, ("layers.1", "layers.*.w"), "cuda:0"),),
        tree=tree,
        ledger=(Account("cuda:0", 700, 0, 64, 16, 0, 4, 8, 0, 20, "layers head"), Account("cpu", 100, 8)),
        outcome=Outcome(
            "latency",
            2.5,
            2.0,
            "time-limit",
            2,
            ("stopped early",),
            Prediction(0.25, 0.05, "compute", "link", "stream", 9.5),
        ),
        diagnostics=(Diagnostic(newer, "`layers.1` is streamed", notes=("a note",), help="a hint"),),
    )


def refusal(data: bytes) -> Diagnostic:
    with pytest.raises(PlanError) as caught:
        decode(data, "x.msgpack")
    (found,) = caught.value.diagnostics
    return found


def with_header(**changes: object) -> bytes:
    return msgpack.packb(msgpack.unpackb(FIXTURE.read_bytes()) | changes)


def test_the_file_of_version_1_is_read_for_ever():
    plan, expected = read_plan(FIXTURE), plan_of_the_fixture()
    assert plan == expected
    assert plan.tree == expected.tree
    assert plan.ledger == expected.ledger
    assert plan.outcome == expected.outcome
    assert plan.diagnostics == expected.diagnostics
    assert [unit.reason for unit in plan.units] == [unit.reason for unit in expected.units]
    for kind in ("constraints", "reserves", "demands", "caches"):
        marks = [[node.added for node in getattr(each, kind)] for each in (plan, expected)]
        assert marks[0] == marks[1]


def test_version_1_is_written_as_it_always_was():
    assert encode_plan(plan_of_the_fixture()) == FIXTURE.read_bytes()


def test_other_versions_are_refused_by_name():
    newer = refusal(with_header(version=2, checksum="of another kind"))
    assert newer.code == "other-version"
    assert "version 2, this compile-plan reads version 1" in newer.message
    assert refusal(with_header(version=0)).help == "compile the plan again"
    assert refusal(with_header(version=None)).code == "invalid-plan-file"


def test_a_header_of_a_later_version_may_have_other_fields():
    data = msgpack.packb({"format": "compile-plan", "version": 3, "sections": [1, 2, 3]})
    assert refusal(data).code == "other-version"


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (pickle.dumps({"a": 1}), "a pickle"),
        (b"PK\x03\x04....", "a zip archive"),
        ((60).to_bytes(8, "little") + json.dumps({"a": {"dtype": "F32"}}).encode(), "a safetensors file"),
        (b'  {"": 0}', "JSON"),
        (b"plan 1\nmodel x\n", "text"),
        (b"GGUF\x03\x00", "a GGUF model"),
        (b"\x1f\x8b\x08", "a gzip archive"),
        (b"", "empty"),
        (b"\xc1\xc1\xc1", "something else"),
        (msgpack.packb({"weights": 1}), "something else"),
    ],
)
def test_other_formats_are_refused_by_name(data, kind):
    found = refusal(data)
    assert found.code == "not-a-plan-file"
    assert f"it is {kind}" in found.message


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (FIXTURE.read_bytes()[:-1], "it is not msgpack"),
        (FIXTURE.read_bytes() + b"\x00", "it is not msgpack"),
        (FIXTURE.read_bytes()[:-1] + b"\xff", "the checksum does not fit"),
        (with_header(checksum=b""), "the checksum does not fit"),
        (with_header(body="text"), "the body is missing"),
        (with_header(more=1), "the header is not that of version 1"),
        (with_header(body=b"\x80", checksum=hashlib.sha256(b"\x80").digest()), "the tables are not those"),
    ],
)
def test_damage_is_noticed(data, reason):
    found = refusal(data)
    assert found.code == "invalid-plan-file"
    assert found.notes[0].startswith(reason)


def test_paths_beyond_all_reason_are_not_written():
    with pytest.raises(PlanError) as caught:
        encode_plan(Plan(Model("m"), units=(Unit("a" * 70_000),)))
    assert caught.value.diagnostics[0].code == "plan-too-large"


def test_a_large_mixture_is_small_and_fast():
    experts = [
        f"model.layers.{layer}.mlp.experts.{expert}.{name}.weight"
        for layer in range(8)
        for expert in range(64)
        for name in ("gate", "up", "down")
    ]
    tree = tree_of(dict.fromkeys(experts, 2**20))
    units = tuple(
        Unit(f"model.layers.{layer}.mlp.experts.{expert}", f"cuda:{expert % 2}", f"cuda:{expert % 2}")
        for layer in range(8)
        for expert in range(64)
    )
    plan = Plan(Model("m"), (Device("cuda:0", None), Device("cuda:1", None)), units=units, tree=tree)
    (data, again), calls = counted(lambda: (encode_plan(plan), decode(encode_plan(plan))))
    assert calls < 100 * len(tree)
    assert len(data) < 16 * len(tree)
    assert to_device_map(again) == to_device_map(plan)


def test_the_example_of_the_documentation_is_the_bytes_that_are_written():
    text = (ROOT / "docs" / "plan-file.md").read_text()
    block = re.search(r"```hexdump\n(.*?)```", text, re.DOTALL)
    assert block is not None
    shown = bytes.fromhex("".join(line[10:58] for line in block[1].splitlines()))
    assert shown == encode_plan(plan_of_the_example())
    plan_text = re.search(r"```plan\n(.*?)```", text, re.DOTALL)
    assert plan_text is not None
    assert parse(plan_text[1]) == plan_of_the_example()


def plan_of_the_example() -> Plan:
    return Plan(Model("gpt2"), (Device("cpu", GIB),), units=(Unit("", "cpu", "cpu", Reason.WRITTEN),))


def test_every_table_and_column_is_documented():
    text = (ROOT / "docs" / "plan-file.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", text, re.MULTILINE)
    documented = {name: tuple(re.findall(r"`(\w+)`", columns)) for name, columns in rows}
    body = msgpack.unpackb(msgpack.unpackb(FIXTURE.read_bytes())["body"])
    assert documented == {name: tuple(columns) for name, columns in body.items()}
    assert list(documented) == list(body)

"""Laws of the plan file: what goes in comes out, and no bytes whatever do harm."""

from __future__ import annotations

import hashlib
import os
import random
import tracemalloc
from dataclasses import fields, replace

import msgpack
import pytest
from compile_plan.backends.columns import pack_column
from compile_plan.backends.msgpack_file import decode, encode_plan
from compile_plan.backends.plan_tables import to_tables
from compile_plan.ir import Plan, PlanError, verify
from hostile_planfiles import EXPECTED, file_of, hostile_file
from hypothesis import given, settings
from planfile_strategies import plans
from steps import counted

REFUSALS = {"invalid-plan-file", "not-a-plan-file", "other-version"}


def everything(plan: Plan) -> dict[str, object]:
    """Every field of a plan, also those that take no part in equality."""
    found = {field.name: getattr(plan, field.name) for field in fields(plan)}
    found["reasons"] = [unit.reason for unit in plan.units]
    found["origins"] = [device.origin for device in plan.devices]
    found["hidden"] = plan.tree and (plan.tree.objects, plan.tree.eighths, plan.tree.twins)
    return found


def refused_or_read(data: bytes) -> bool:
    """Decode; anything but a plan or a refusal is an error of ours. A plan must survive its checks."""
    try:
        plan = decode(data)
    except PlanError as error:
        found = {d.code for d in error.diagnostics}
    else:
        found = set()
    assert found <= REFUSALS
    if found:
        return False
    verify(plan)
    assert everything(decode(encode_plan(plan))) == everything(plan) or "nan" in repr(plan.outcome)
    return True


def mutated(data: bytes, dice: random.Random) -> bytes:
    """One of: bits flipped, cut, lengthened, with or without the checksum repaired."""
    kind = dice.randrange(5)
    if kind == 0:
        return data[: dice.randrange(len(data))]
    if kind == 1:
        return data + dice.randbytes(dice.randrange(1, 9))
    target = bytearray(data if kind == 2 else msgpack.unpackb(data)["body"])
    for _ in range(dice.choice([1, 1, 2, 8])):
        place = dice.randrange(len(target))
        target[place] = dice.choice([target[place] ^ 1 << dice.randrange(8), 0, 255, dice.randrange(256)])
    if kind == 2:
        return bytes(target)
    checksum = hashlib.sha256(target).digest()
    return msgpack.packb(
        {"format": "compile-plan", "version": 1, "checksum": checksum, "body": bytes(target)}
    )


def with_numbers_changed(tables: dict[str, dict[str, bytes]], dice: random.Random) -> bytes:
    """Change, repeat or drop numbers of one column, so that only the meaning can be wrong."""
    table = dice.choice(list(tables))
    column = dice.choice(list(tables[table]))
    changed = [dice.choice([0, 1, 2, 3, 200, 2**31, 2**63, 2**64 - 1]) for _ in range(dice.randrange(6))]
    return file_of({**tables, table: {**tables[table], column: pack_column(changed)}})


def noise(dice: random.Random) -> bytes:
    """Random msgpack, alone or behind a correct header."""
    data = dice.randbytes(dice.randrange(60))
    if dice.random() < 0.5:
        return data
    checksum = hashlib.sha256(data).digest()
    return msgpack.packb({"format": "compile-plan", "version": 1, "checksum": checksum, "body": data})


def fuzz(seeds: range, samples: list[Plan]) -> tuple[int, int]:
    whole = [(encode_plan(plan), to_tables(plan)) for plan in samples]
    outcomes = [0, 0]
    for seed in seeds:
        dice = random.Random(seed)  # noqa: S311 - not for secrets
        data, tables = dice.choice(whole)
        choice = dice.randrange(4)
        if choice == 0:
            broken = noise(dice)
        elif choice == 1:
            broken = with_numbers_changed(tables, dice)
        else:
            broken = mutated(data, dice)
        outcomes[refused_or_read(broken)] += 1
    return outcomes[0], outcomes[1]


@pytest.fixture(scope="module")
def samples() -> list[Plan]:
    found: list[Plan] = []

    @settings(max_examples=60, database=None, derandomize=True)
    @given(plans())
    def collect(plan: Plan) -> None:
        found.append(plan)

    collect()
    return [plan for plan in found if plan.tree is not None] + found[:10]


@given(plans())
def test_a_plan_survives_the_file_with_everything(plan):
    data = encode_plan(plan)
    again = decode(data)
    assert everything(again) == everything(plan)
    assert encode_plan(again) == data


@settings(max_examples=25)
@given(plans())
def test_equal_plans_give_equal_bytes(plan):
    copied = replace(plan, units=tuple(replace(unit) for unit in plan.units))
    assert encode_plan(copied) == encode_plan(plan)


def test_broken_files_are_refused_and_never_anything_else(samples):
    refused, read = fuzz(range(4_000), samples)
    assert refused > 2_000
    assert read > 50  # some changes only make another plan: those go all the way through


@pytest.mark.slow
def test_a_million_broken_files(samples):
    start = int(os.environ.get("FUZZ_START", "0"))
    refused, read = fuzz(range(start, start + 1_000_000), samples)
    assert refused + read == 1_000_000


@pytest.mark.parametrize(("name", "outcome"), EXPECTED.items())
def test_memory_and_work_stay_in_proportion(name, outcome):
    data = hostile_file(name)
    said, calls = counted(lambda: read_and_checked(data))
    assert outcome in said
    assert calls < 10_000 + 8 * len(data)
    tracemalloc.start()
    read_and_checked(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 * 2**20 + 400 * len(data)


def read_and_checked(data: bytes) -> str:
    """What decoding and checking say: a refusal with its reason, or the broken laws."""
    try:
        found = verify(decode(data))
    except PlanError as error:
        found = error.diagnostics
    return " ".join(f"{d.code} {d.notes}" for d in found) or "lawful"

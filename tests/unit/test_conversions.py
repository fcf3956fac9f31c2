"""Any form of a plan to any form that can hold it, through files and through the real command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from command import run_command
from compile_plan.backends import encode, read_plan, to_device_map, write_plan
from compile_plan.backends.msgpack_file import decode
from compile_plan.grammar import parse, print_plan
from compile_plan.ir import Device, Model, Plan, Unit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from planfile_strategies import placed_plans, tree_of

EXAMPLE = Path(__file__).parents[2] / "examples" / "decoder.py"
WHOLE = (".plan", ".msgpack")
"""Forms that keep everything equality looks at."""
NESTED = """plan 1
model "m"

device cuda:0 memory 1GiB
device cuda:1 memory 1GiB
device cpu memory 1GiB

place . on cpu run on cuda:0
place model.layers.{0..9} on cuda:0
place model.layers.3 on cuda:1
place model.layers.3.mlp on cpu
place model.layers.*.norm on cuda:1
"""
run_quietly = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def through(plan: Plan, folder: Path, *suffixes: str) -> Plan:
    """Write and read a plan in one form after the other."""
    for step, suffix in enumerate(suffixes):
        path = folder / f"{step}{suffix}"
        write_plan(plan, path)
        plan = read_plan(path)
    return plan


@run_quietly
@given(placed_plans(), st.lists(st.sampled_from(WHOLE), min_size=1, max_size=4))
def test_no_chain_of_whole_forms_changes_a_plan(tmp_path, plan, suffixes):
    assert through(plan, tmp_path, *suffixes) == plan


@run_quietly
@given(placed_plans())
def test_a_text_with_its_modules_holds_the_whole_tree(plan):
    again = parse(print_plan(plan, with_modules=True))
    assert again == plan
    assert again.tree == plan.tree
    assert encode(again, "device-map") == encode(plan, "device-map")
    packed = decode(encode(again, "msgpack"))
    assert (packed, packed.tree) == (plan, plan.tree)


@run_quietly
@given(placed_plans(), st.sampled_from(WHOLE))
def test_a_device_map_says_the_same_after_another_form(tmp_path, plan, suffix):
    written = through(plan, tmp_path, ".json")
    again = through(written, tmp_path, suffix, ".json")
    assert (again.units, again.devices) == (written.units, written.devices)
    assert to_device_map(written) == to_device_map(plan)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> Path:
    """A folder with the plan of an example, as its compilation wrote it in every form."""
    folder = tmp_path_factory.mktemp("compiled")
    budgets = ["--memory", "cuda:0=2MiB,cuda:1=1MiB,cpu=1GiB", "-q"]
    for name in ("direct.plan", "direct.msgpack", "direct.json", "direct.html"):
        assert run_command([f"{EXAMPLE}:tiny", *budgets, "-o", name], cwd=folder).code == 0
    table = [f"{EXAMPLE}:tiny", *budgets, "--with-modules", "-o", "table.plan"]
    assert run_command(table, cwd=folder).code == 0
    return folder


def convert(folder: Path, source: str, target: str, *options: str) -> Path:
    result = run_command([source, "-o", target, "-q", *options], cwd=folder)
    assert (result.code, result.err) == (0, "")
    return folder / target


@pytest.mark.parametrize("source", ["direct.plan", "direct.msgpack", "table.plan"])
@pytest.mark.parametrize("target", WHOLE)
def test_the_command_turns_any_form_into_any_form(compiled, source, target):
    made = convert(compiled, source, f"made{target}")
    assert read_plan(made) == read_plan(compiled / "direct.msgpack")


def test_a_text_with_its_modules_becomes_the_compiled_file(compiled):
    made = read_plan(convert(compiled, "table.plan", "from_table.msgpack"))
    direct = read_plan(compiled / "direct.msgpack")
    assert direct.tree is not None
    assert (made, made.tree) == (direct, direct.tree)
    assert [(a.device, a.weights, a.buffers) for a in made.ledger] == [
        (a.device, a.weights, a.buffers) for a in direct.ledger
    ]


def test_a_file_becomes_the_text_it_was_compiled_to(compiled):
    made = convert(compiled, "direct.msgpack", "again.plan", "--with-modules")
    assert made.read_text() == (compiled / "table.plan").read_text()


@pytest.mark.parametrize("source", ["direct.msgpack", "table.plan"])
def test_a_device_map_is_the_same_from_every_form_with_modules(compiled, source):
    made = convert(compiled, source, "made.json")
    assert made.read_bytes() == (compiled / "direct.json").read_bytes()


def test_a_device_map_becomes_text(compiled):
    made = read_plan(convert(compiled, "direct.json", "from_map.plan"))
    keys = json.loads((compiled / "direct.json").read_text())
    assert to_device_map(made) == keys


@pytest.mark.parametrize("suffix", WHOLE)
def test_a_nested_text_without_its_model_keeps_its_lines(tmp_path, suffix):
    plan = parse(NESTED)
    assert through(plan, tmp_path, suffix) == plan
    (tmp_path / "nested.plan").write_text(NESTED)
    made = read_plan(convert(tmp_path, "nested.plan", f"made{suffix}"))
    assert made == plan


def test_a_nested_text_with_its_modules_is_read_deepest_first(tmp_path):
    tree = tree_of({f"h.{i}.{name}.weight": 8 for i in range(3) for name in ("a", "b")})
    units = (Unit("", "cpu", "cpu"), Unit("h.1", "cuda:0", "cuda:0"), Unit("h.1.b", "cpu", "cpu"))
    devices = (Device("cuda:0", 2**20), Device("cpu", 2**20))
    plan = Plan(Model("m", tree.digest), devices, units=units, tree=tree)
    flat = {"h.0": "cpu", "h.1.a": 0, "h.1.b": "cpu", "h.2": "cpu"}
    assert to_device_map(plan) == flat
    assert to_device_map(through(plan, tmp_path, ".msgpack")) == flat
    assert to_device_map(parse(print_plan(plan, with_modules=True))) == flat
    assert to_device_map(replace(through(plan, tmp_path, ".json"), tree=tree)) == flat

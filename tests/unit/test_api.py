"""The names other people's scripts rely on: signatures, spellings, what raises, how the command ends."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys

import pytest
import torch
from compile_plan import backends, compiler, grammar, ir
from torch import nn

MIB = 2**20
TEXT = 'plan 1\nmodel "m"\n\ndevice cuda:0 memory 1MiB\ndevice cpu memory 1GiB\n\nplace a on cuda:0\nplace b on cpu run on cuda:0\n'  # noqa: E501


def model(layers: int = 4) -> nn.Module:
    """Layers of 1 MiB each, without weights."""
    with torch.device("meta"):
        return nn.Sequential(*(nn.Linear(512, 512, bias=False) for _ in range(layers)))


def parameters(function):
    """Name, default and kind of each parameter; without what may be added at the end."""
    found = inspect.signature(function).parameters.values()
    return [(p.name, p.default, p.kind.name) for p in found if p.kind is not p.VAR_KEYWORD]


EMPTY = inspect.Parameter.empty


def plain(**defaults):
    return [(name, default, "POSITIONAL_OR_KEYWORD") for name, default in defaults.items()]


def named(**defaults):
    return [(name, default, "KEYWORD_ONLY") for name, default in defaults.items()]


SIGNATURES = [
    (
        compiler.compile_model,
        plain(model=EMPTY)
        + named(
            max_memory=None,
            no_split_module_classes=None,
            dtype=None,
            special_dtypes=None,
            offload_buffers=False,
            strategy="auto",
            objective=None,
            offload="auto",
            overrides=None,
            example_inputs=None,
        ),
    ),
    (
        compiler.infer_auto_device_map,
        plain(
            model=EMPTY,
            max_memory=None,
            no_split_module_classes=None,
            dtype=None,
            special_dtypes=None,
            verbose=False,
            clean_result=True,
            offload_buffers=False,
            fallback_allocation=False,
        ),
    ),
    (compiler.load_model, plain(plan=EMPTY, model=EMPTY, checkpoint=None)),
    (backends.to_device_map, plain(plan=EMPTY)),
    (backends.read_plan, plain(path=EMPTY)),
    (backends.write_plan, plain(plan=EMPTY, path=EMPTY)),
    (grammar.parse, plain(text=EMPTY)),
    (grammar.print_plan, plain(plan=EMPTY)),
    (grammar.format_text, plain(text=EMPTY)),
]


@pytest.mark.parametrize(("function", "wanted"), SIGNATURES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_promised_signature_holds(function, wanted):
    assert parameters(function)[: len(wanted)] == wanted


@pytest.mark.parametrize(("function", "wanted"), SIGNATURES, ids=lambda value: getattr(value, "__name__", ""))
def test_what_was_added_to_a_signature_is_optional(function, wanted):
    assert all(default is not EMPTY for _, default, _ in parameters(function)[len(wanted) :])


def test_the_drop_in_has_the_signature_of_the_original():
    from accelerate import infer_auto_device_map

    assert parameters(compiler.infer_auto_device_map) == parameters(infer_auto_device_map)


def test_the_value_and_the_exception_are_the_same_everywhere():
    assert compiler.Plan is ir.Plan
    assert compiler.PlanError is ir.PlanError
    for package in (compiler, backends, grammar, ir):
        assert all(hasattr(package, name) for name in package.__all__)


@pytest.mark.parametrize(
    ("key", "device"),
    [
        (0, "cuda:0"), ("0", "cuda:0"), ("cuda:0", "cuda:0"), ("mps", "mps"), ("xpu:1", "xpu:1"),
        ("npu:0", "npu:0"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [8 * MIB, "8MiB", "8 MiB", "0.0078125GiB"])
def test_a_budget_may_be_spelled_in_every_way(key, device, size):
    plan = compiler.compile_model(model(), max_memory={key: size, "cpu": "1GiB"})
    assert [(d.name, d.memory) for d in plan.devices] == [(device, 8 * MIB), ("cpu", 2**30)]
    assert {unit.store for unit in plan.units} == {device}


def test_the_host_and_the_disk_take_what_is_left():
    plan = compiler.compile_model(model(), max_memory={"cpu": "2MiB", "disk": "1GiB"})
    assert {unit.store for unit in plan.units} == {"cpu", "disk"}


@pytest.mark.parametrize("entry", [compiler.compile_model, compiler.infer_auto_device_map])
def test_the_budgets_of_the_caller_stay_as_they_are(entry):
    budgets = {0: "2MiB", "cpu": "1GiB", "disk": 2**30}
    before = list(budgets.items())
    entry(model(), max_memory=budgets)
    assert list(budgets.items()) == before


def test_the_maps_of_both_ways_have_accelerates_spelling():
    budgets = {0: "2MiB", "xpu:1": "1MiB", "cpu": "1GiB"}
    found = backends.to_device_map(compiler.compile_model(model(), max_memory=budgets, offload="compute"))
    assert found == {"0": 0, "1": 0, "2": "xpu:1", "3": "cpu"}
    drop_in = compiler.infer_auto_device_map(model(), max_memory={0: "8MiB", "cpu": "1GiB"})
    assert drop_in == {"": 0}


def test_an_override_may_be_a_text_a_path_or_a_plan(tmp_path):
    text = "plan 1\nplace 3 on cpu\n"
    path = tmp_path / "edits.plan"
    path.write_text(text)
    budgets = {0: "64MiB", "cpu": "1GiB"}
    found = [
        compiler.compile_model(model(), max_memory=budgets, overrides=given)
        for given in (text, path, str(path), grammar.parse(text), [text])
    ]
    assert all(plan == found[0] for plan in found)
    assert backends.to_device_map(found[0]) == {"0": 0, "1": 0, "2": 0, "3": "cpu"}


@pytest.mark.parametrize(
    ("ask", "code"),
    [
        (lambda: compiler.compile_model(model(), max_memory={0: "1MiB"}), "does-not-fit"),
        (lambda: compiler.compile_model(model(), max_memory={"gpu7": "1MiB"}), "unknown-device-name"),
        (lambda: grammar.parse("plan 1\nplace on on\n"), "unexpected-word"),
        (lambda: backends.read_plan("no/such/file.plan"), "no-such-file"),
        (lambda: backends.read_plan("plan.docx"), "unknown-form"),
        (lambda: backends.write_plan(grammar.parse(TEXT), "no/such/folder/p.plan"), "no-such-folder"),
        (lambda: backends.to_device_map(grammar.parse("plan 1\nunit a\n")), "unplaced-unit"),
        (lambda: compiler.load_model("no/such/file.plan", model()), "no-such-file"),
    ],
    ids=["does-not-fit", "device", "text", "path", "suffix", "folder", "unplaced", "load"],
)
def test_whatever_is_refused_carries_its_diagnostics(ask, code):
    with pytest.raises(ir.PlanError) as caught:
        ask()
    first = caught.value.diagnostics[0]
    assert first.code == code
    assert first.severity is ir.Severity.ERROR
    assert first.message in str(caught.value)


@pytest.mark.parametrize("suffix", [".plan", ".msgpack", ".json"])
def test_the_suffix_chooses_the_form(tmp_path, suffix):
    plan = grammar.parse(TEXT)
    path = tmp_path / f"m{suffix}"
    backends.write_plan(plan, path)
    again = backends.read_plan(str(path))
    assert [(unit.path, unit.store, unit.run) for unit in again.units] == [
        ("a", "cuda:0", "cuda:0"),
        ("b", "cpu", "cuda:0"),
    ]
    first = {".plan": b"plan 1\n", ".msgpack": b"\x84\xa6format", ".json": b"{\n"}[suffix]
    assert path.read_bytes().startswith(first)
    assert (again == plan) is (suffix != ".json")


def test_a_path_to_any_form_loads(tmp_path):
    built = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    plan = compiler.compile_model(built, max_memory={"cpu": "1GiB"})
    for suffix in (".plan", ".msgpack", ".json"):
        path = tmp_path / f"m{suffix}"
        backends.write_plan(plan, path)
        loaded = compiler.load_model(path, built)
        assert {parameter.device.type for parameter in loaded.parameters()} == {"cpu"}


def run_module(*arguments, cwd):
    command = [sys.executable, "-m", "compile_plan.compiler", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--version"], 0),
        (["good.plan", "-o", "out.msgpack"], 0),
        (["good.plan", "-o", "out.json", "--quiet"], 0),
        (["missing.plan"], 1),
        (["bad.plan"], 1),
        (["--no-such-option"], 2),
        ([], 2),
        (["--format-plan", "good.plan", "--check"], 0),
        (["--format-plan", "loose.plan", "--check"], 3),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_command_ends_with_the_promised_code(tmp_path, arguments, code):
    (tmp_path / "good.plan").write_text(TEXT)
    (tmp_path / "bad.plan").write_text("plan 1\nplace a on gpu7\n")
    (tmp_path / "loose.plan").write_text(TEXT.replace("place a", "place    a"))
    run = run_module(*arguments, cwd=tmp_path)
    assert run.returncode == code, run.stderr
    assert "Traceback" not in run.stderr
    assert code not in {1, 2} or "error" in run.stderr


def test_what_the_command_writes_is_what_python_reads(tmp_path):
    (tmp_path / "p.plan").write_text(TEXT)
    assert run_module("p.plan", "-o", "p.msgpack", "-q", cwd=tmp_path).returncode == 0
    assert run_module("p.msgpack", "-o", "p.json", "-q", cwd=tmp_path).returncode == 0
    assert backends.read_plan(tmp_path / "p.msgpack") == grammar.parse(TEXT)
    assert json.loads((tmp_path / "p.json").read_text()) == {"a": 0, "b": "cpu"}


def test_what_torchs_own_modules_read_of_their_children_stays_with_them():
    layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 4)
    budgets = {0: "12KB", 1: "12KB", "cpu": "1GB"}
    plan = compiler.compile_model(layers, max_memory=budgets, no_split_module_classes=["Linear"])
    assert ir.Atomic("TransformerEncoderLayer", by_class=True) in plan.constraints
    assert all(unit.path.count(".") <= 1 for unit in plan.units), plan.units
    largest = max(sum(p.nbytes for p in layer.parameters()) for layer in layers.layers)
    assert max(account.streaming for account in plan.ledger) in {0, largest}

"""One road: a line says the same and has the same effect, wherever it stands (law 7)."""

from __future__ import annotations

import pytest
import torch
from compile_plan.backends import read_plan
from compile_plan.compiler import compile_model, compile_plan, load_model
from compile_plan.compiler.lsp.subject import findings, read_subject
from compile_plan.compiler.sources.live import lower_model
from compile_plan.grammar import parse, print_plan
from compile_plan.ir import Diagnostics, Model, Plan, PlanError, unit_of_tensors
from torch import nn

DEVICES = "device cuda:0 memory 64KiB\ndevice cuda:1 memory 64KiB\ndevice cpu memory 1MiB\n"
ON_CPU = {"cuda:0": "cpu", "cuda:1": "cpu"}


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn, self.mlp = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        return self.mlp(self.attn(x))


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(16, 8)
        self.layers = nn.ModuleList(Block() for _ in range(3))
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 16, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


def table():
    """The model as text with its module table, and nothing placed."""
    plan = compile_model(Small(), max_memory={"cpu": "1MiB"})
    bare = Plan(Model("small"), tree=plan.tree, ties=plan.ties)
    return print_plan(bare, with_modules=True)


# Each road takes lines and returns the codes of what was found and the plan they lead to.


def raised(step):
    try:
        plan = step()
    except PlanError as error:
        return {each.code for each in error.diagnostics}, None
    return {each.code for each in plan.diagnostics}, plan


def override_file(lines, tmp_path):
    path = tmp_path / "edits.plan"
    path.write_text(lines)
    base = tmp_path / "base.plan"
    base.write_text(table() + DEVICES)
    return raised(lambda: compile_plan(base, overrides=path))


def python_overrides(lines, tmp_path):
    del tmp_path
    model = Small()
    budgets = {0: "64KiB", 1: "64KiB", "cpu": "1MiB"}
    return raised(lambda: compile_model(model, max_memory=budgets, overrides=parse(lines)))


def half_placed(lines, tmp_path):
    path = tmp_path / "half.plan"
    path.write_text(f"{table()}{DEVICES}unit norm\n{lines}\n")
    return raised(lambda: compile_plan(str(path)))


def complete(lines, tmp_path):
    path = tmp_path / "whole.plan"
    path.write_text(f"{table()}{DEVICES}place . on cpu\n{lines}\n")
    return raised(lambda: compile_plan(path))


def loaded(lines, tmp_path):
    path = tmp_path / "load.plan"
    path.write_text(f'plan 1\nmodel "small"\n{DEVICES}place . on cpu\n{lines}\n')
    found = Diagnostics()
    try:
        load_model(path, Small(), devices=ON_CPU, diagnostics=found)
    except PlanError as error:
        return {each.code for each in error.diagnostics}, None
    return {each.code for each in found}, read_plan(path)


def edited(lines, tmp_path):
    del tmp_path
    text = f"{table()}{DEVICES}place . on cpu\n{lines}\n"
    return {each.code for each in findings(read_subject(text))}, None


def edited_beside(lines, tmp_path):
    del tmp_path
    base = parse(table() + DEVICES)
    return {each.code for each in findings(read_subject(lines, companion=base))}, None


ROADS = [override_file, python_overrides, half_placed, complete, loaded, edited, edited_beside]

WRONG = [
    ("place layers.9 on cpu", "unknown-path"),
    ("place layerz.*.mlp on cpu", "unknown-path"),
    ("unit layers.{2..5}", "unknown-path"),
    ("place layers.0 on cuda:5", "undeclared-device"),
    ("place layers.0 on cpu run on cuda:5", "undeclared-device"),
    ("never layers.9 on cpu", "unknown-path"),
    ("never **.mpl on streaming", "unknown-path"),
    ("never layers.0 on cuda:5", "undeclared-device"),
    ("atomic class Blokc", "unknown-class"),
    ("atomic Block", "unknown-path"),
    ("atomic layers.9", "unknown-path"),
    ("split layers.9", "unknown-path"),
    ("split embed", "split-of-leaf"),
    ("together head layers.9", "unknown-path"),
    ("reserve 1KiB on cuda:5", "undeclared-device"),
    ('reserve 1KiB on cuda:5 for "kv cache"', "undeclared-device"),
    ('demand 1KiB with layers.9 for "kv cache"', "unknown-path"),
    ('demand 1KiB with layers.*.zzz for "activations"', "unknown-path"),
    ("work 1G with layers.9", "unknown-path"),
    ("cache 1KiB of layers.9 on cuda:0", "unknown-path"),
    ("cache 1KiB of layers.0 on cuda:5", "undeclared-device"),
    ("never layers.0 on cuda:0\nplace layers.0 on cuda:0", "contradiction"),
    ("never embed on cuda:0\nplace head on cuda:0\nplace embed.weight on cuda:0", "contradiction"),
    ("place head on cuda:0\nplace embed on cuda:1", "contradiction"),
    ("together layers.0 layers.1\nplace layers.0 on cuda:0\nplace layers.1 on cuda:1", "contradiction"),
    ("split layers.0\natomic layers.0\nplace layers.0 on cpu", "contradiction"),
    ("never layers.0 on cuda:0\nnever layers.0 on cuda:1\nnever layers.0 on cpu", "contradiction"),
    ("place layers.0 on cuda:1\nplace layers.0 on cuda:0", "line-never-wins"),
    ("place layers.0.{attn,mlp} on cuda:1\nplace layers.0 on cuda:0", "line-never-wins"),
    ("never embed on cuda:0\nnever head on cuda:1\nnever embed on cpu", "contradiction"),
    ("together norm layers.0\nnever norm on cuda:0\nnever layers.0 on cuda:1\nnever norm on cpu",
     "contradiction"),
]  # fmt: skip


@pytest.mark.parametrize("road", ROADS, ids=lambda road: road.__name__)
@pytest.mark.parametrize(("lines", "code"), WRONG, ids=[lines.replace("\n", "; ") for lines, _ in WRONG])
def test_what_is_wrong_with_a_line_is_said_on_every_road(road, lines, code, tmp_path):
    codes, _ = road(lines, tmp_path)
    assert {LAWS.get(each, each) for each in codes} == {code}


LAWS = {"tie-across-devices": "contradiction"}
"""A whole plan whose ties are apart breaks a law; that has a name of its own."""

RIGHT = [
    ("place layers.* on cuda:1", {"layers.0.attn.weight": "cuda:1", "layers.2.mlp.bias": "cuda:1"}),
    ("place **.mlp on cpu run on cpu", {"layers.1.mlp.weight": "cpu"}),
    ("place layers on cuda:0\nplace layers.1.attn on cpu", {
        "layers.0.attn.weight": "cuda:0", "layers.1.attn.weight": "cpu", "layers.1.mlp.weight": "cuda:0",
    }),
    ("place layers.{0,2} on cuda:1\nnever layers.1 on streaming", {"layers.2.mlp.weight": "cuda:1"}),
    ("unit layers.0\nplace layers.* on cuda:1", {"layers.0.attn.weight": "cuda:1"}),
]  # fmt: skip


@pytest.mark.parametrize("road", [override_file, python_overrides, half_placed, complete])
@pytest.mark.parametrize(("lines", "places"), RIGHT, ids=[lines.replace("\n", "; ") for lines, _ in RIGHT])
def test_a_line_has_the_same_effect_on_every_road(road, lines, places, tmp_path):
    codes, plan = road(lines, tmp_path)
    assert codes <= {"line-never-wins"}
    owner = unit_of_tensors(plan.tree, plan.units)
    found = {path: plan.units[owner[plan.tree.tensor_index[path]]].store for path in places}
    assert found == places


@pytest.mark.parametrize("lines", [lines for lines, _ in RIGHT])
def test_the_loader_and_the_editor_have_nothing_to_say_of_what_is_right(lines, tmp_path):
    for road in (loaded, edited, edited_beside):
        assert road(lines, tmp_path)[0] <= {"line-never-wins"}


@pytest.mark.parametrize("kind", ['demand 1KiB with layers.* for "kv cache"', "work 1G with layers.*"])
def test_wildcards_of_needs_are_what_they_match(kind, tmp_path):
    for road in (override_file, half_placed, complete):
        _, plan = road(kind, tmp_path)
        needs = plan.demands if kind.startswith("demand") else plan.work
        assert [need.path for need in needs] == ["layers.0", "layers.1", "layers.2"]


def test_an_override_for_another_model_is_refused_and_one_that_names_the_plan_is_heard(tmp_path):
    codes, _ = python_overrides('model "other" digest 0123456789abcdef\nplace . on cpu', tmp_path)
    assert codes == {"another-model"}
    right = f'model "mine" digest {lower_model(Small()).digest}\nplace . on cpu'
    codes, plan = python_overrides(right, tmp_path)
    assert (codes, plan.model.name) == (set(), "mine")


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ('option strategy "balanced"', None, ""),
        ('option strategy "balancd"', "bad-option-value", "did you mean `balanced`?"),
        ('option margin "soon"', "bad-option-value", "`10GiB`"),
        ('option stratgy "auto"', "unknown-option", "did you mean `option strategy`?"),
        ('option dtype "bfloat"', "unknown-dtype", "did you mean"),
        ('option trust-remote-code "True"', "option-without-effect", "--trust-remote-code"),
    ],
)
@pytest.mark.parametrize("road", ROADS, ids=lambda road: road.__name__)
def test_option_lines_are_options(road, line, code, words, tmp_path):
    codes, plan = road(f"{line}\n", tmp_path)
    if code is None:
        assert codes == set()
        assert plan is None or dict(plan.options) == {"strategy": "balanced"}
        return
    assert codes == {code}
    with pytest.raises(PlanError) as caught:
        compile_model(Small(), max_memory={"cpu": "1MiB"}, overrides=f"{line}\n")
    assert words in str(caught.value)


def test_a_device_line_says_what_it_says_and_leaves_the_rest(tmp_path):
    base = tmp_path / "base.plan"
    base.write_text(table() + DEVICES.replace("cuda:0 memory 64KiB", "cuda:0 memory 64KiB margin 1KiB"))
    plan = compile_plan(base, overrides="device cuda:0 memory 32KiB\nplace norm on cpu\n")
    first = plan.devices[0]
    assert (first.name, first.memory, first.margin) == ("cuda:0", 32 * 1024, 1024)


def test_the_model_still_works_where_lines_put_it(tmp_path):
    path = tmp_path / "p.plan"
    path.write_text(f"plan 1\n{DEVICES}place . on cpu\nplace layers.*.mlp on cuda:0\n")
    model, ids = Small(), torch.zeros(1, 3, dtype=torch.int64)
    wanted = model(ids)
    assert torch.allclose(load_model(path, model, devices=ON_CPU)(ids), wanted)


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("place layers[0:2] on cpu", "place layers.{0..1} on cpu"),
        ("place layers[1:].mlp on cpu", "place layers.{1..2}.mlp on cpu"),
        ("never layers[:] on cuda:0", "never layers.{0..2} on cuda:0"),
        ("place layers[1] on cpu", "place layers.1 on cpu"),
        ("place layers/0/mlp on cpu", "place layers.0.mlp on cpu"),
        ("place layerz.0 on cpu", "place layers.0 on cpu"),
        ("never **.mpl on cpu", "never **.mlp on cpu"),
        ("place layers.*.atn on cpu", "place layers.*.attn on cpu"),
        ("place lay*.{0,1}.atn on cpu", "place lay*.{0,1}.attn on cpu"),
        ("atomic class Blok", "atomic class Block"),
        ("atomic Block", "atomic class Block"),
        ("place layers.0 on cuda:5", "device cuda:5 memory 10GiB\nplace layers.0 on cuda:5"),
    ],
)
def test_the_help_for_a_line_works_when_it_is_applied_f36(line, meant, tmp_path):
    with pytest.raises(PlanError) as caught:
        compile_model(Small(), max_memory={0: "64KiB", "cpu": "1MiB"}, overrides=f"{line}\n")
    (found,) = caught.value.diagnostics
    words = meant.split("\n")[0] if "device" in meant else meant
    path = next(word for word in reversed(words.split()) if word in (found.help or ""))
    assert path in found.help
    assert override_file(f"{meant}\n", tmp_path)[0] == set()

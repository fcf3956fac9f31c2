"""Reported cases of hand-edited placements: what was silent or unreadable is one clear finding."""

from __future__ import annotations

import pytest
from compile_plan.compiler.lines.binding import bind_plan
from compile_plan.compiler.lines.without_model import contradictions_of_text
from compile_plan.compiler.passes.apply_overrides import ApplyOverrides
from compile_plan.grammar import parse, parse_collecting
from compile_plan.ir import Diagnostics

DEVICES = "device cuda:0 memory 138KiB\ndevice cuda:1 memory 2000KiB\ndevice cpu memory 1MiB\n"
MODEL = f"""{DEVICES}
module . : LM
module model : Inner
module model.embed : Embedding 40KiB
module model.layers : ModuleList
module model.layers.{{0..7}} : Block
parameter model.layers.{{0..7}}.scale : uint8[16] 16B
module model.layers.{{0..7}}.up : Linear 16KiB
module model.layers.{{0..7}}.down : Linear 16KiB
module model.norm : Norm 1KiB
module lm_head : Linear 40KiB
"""


def overridden(text):
    diagnostics = Diagnostics()
    plan = ApplyOverrides((parse(text, name="edits.plan"),)).run(parse(MODEL), diagnostics)
    return plan, tuple(diagnostics)


def bound(text, model=MODEL):
    diagnostics = Diagnostics()
    plan = bind_plan(parse(f'model "lm" digest 0\n{DEVICES}{text}'), parse(model).tree, diagnostics)
    return plan, tuple(diagnostics)


def stores(plan):
    return {unit.path: unit.store for unit in plan.units}


def only(found):
    assert len(found) == 1
    return found[0]


def test_h3_a_wildcard_names_every_layer():
    plan, found = overridden("place model.layers.* on cuda:1")
    assert found == ()
    assert stores(plan) == {f"model.layers.{i}": "cuda:1" for i in range(8)}


def test_h4_a_misspelled_path_is_an_error_with_the_path_that_was_meant():
    finding = only(overridden("place model.layerz.0 on cuda:1")[1])
    assert finding.code == "unknown-path"
    assert finding.help == "did you mean `model.layers.0`?"
    meant = "place model.layers.0 on cuda:1"
    assert overridden(meant)[1] == ()


@pytest.mark.parametrize("devices", [("cpu",), ("cuda:1", "cpu")])
def test_h5_what_is_missing_is_named_once_whatever_the_number_of_devices(devices):
    lines = f"place model on {devices[0]}\n"
    finding = only(bound(lines)[1])
    assert finding.message == "`lm_head` has no place"
    added = finding.help.removeprefix("add `").removesuffix("`")
    assert bound(f"{lines}{added}\n")[1] == ()


def test_h5_a_missing_layer_is_one_finding_without_its_tensors():
    lines = (
        "place model.{embed,norm} on cpu\nplace lm_head on cpu\nplace model.layers.{0,1,3,4,5,6,7} on cpu\n"
    )
    assert only(bound(lines)[1]).message == "`model.layers.2` has no place"


def test_h6_lines_for_direct_parameters_are_fine():
    plan, found = overridden("place model.layers.0.scale on cpu\nplace model.layers.0.up on cuda:1")
    assert found == ()
    assert stores(plan) == {"model.layers.0.scale": "cpu", "model.layers.0.up": "cuda:1"}


@pytest.mark.parametrize("swapped", [False, True])
def test_h7_the_longest_path_wins_in_any_order(swapped):
    lines = ["place model.layers on cuda:1", "place model.layers.3 on cpu"]
    plan, found = overridden("\n".join(reversed(lines) if swapped else lines))
    assert found == ()
    assert stores(plan)["model.layers.3"] == "cpu"
    assert stores(plan)["model.layers.4"] == "cuda:1"


def test_h8_a_device_that_is_none_is_an_error_that_lists_devices():
    plan, found = parse_collecting("place lm_head on gpu7")
    finding = only(found)
    assert plan is None
    assert finding.code == "unknown-device"
    assert finding.notes == ("devices are `cuda:0`, `xpu:0`, `mps`, `cpu`, `disk`, `host/cuda:0`, ...",)
    assert finding.help == "did you mean `cuda:7`?"


def test_h8_a_device_the_machine_does_not_have_is_an_error_that_lists_those_it_has():
    finding = only(overridden("place lm_head on cuda:7")[1])
    assert finding.code == "undeclared-device"
    assert finding.notes == ("declared here: `cuda:0`, `cuda:1`, `cpu`",)


@pytest.mark.parametrize(
    ("old", "new"), [("language_model.", "model.language_model."), ("base_model.model.", ""), ("", "model.")]
)
def test_h9_a_moved_prefix_is_one_finding_with_the_rename(old, new):
    names = [f"layers.{i}.{part}" for i in range(30) for part in ("up", "down")]
    model = DEVICES + "".join(f"module {new}{name} : Linear 1KiB\n" for name in names)
    lines = "".join(f"place {old}{name} on cpu\n" for name in names)
    diagnostics = Diagnostics()
    ApplyOverrides((parse(lines),)).run(parse(model), diagnostics)
    finding = only(tuple(diagnostics))
    assert finding.code == "renamed-prefix"
    assert finding.message.startswith("60 paths name nothing: prefix")
    renamed = lines.replace(f"place {old}", f"place {new}")
    assert ApplyOverrides((parse(renamed),)).run(parse(model), Diagnostics()).units


def test_h12_a_misspelled_class_is_an_error_not_a_block_cut_in_half():
    finding = only(overridden("atomic class Blok")[1])
    assert finding.code == "unknown-class"
    assert finding.help == "did you mean `Block`?"
    assert overridden("atomic class Block")[1] == ()


def test_h12_a_class_written_as_a_path_is_told_apart():
    finding = only(overridden("atomic Block")[1])
    assert finding.help == "write `atomic class Block`"


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("place model.layer.{0..3} on cpu", "model.layers.{0..3}"),
        ("place model.layers.{0..11} on cpu", "model.layers.{0..7}"),
        ("place model.layers.2-5 on cpu", "model.layers.{2..5}"),
        ('place "model/layers/2" on cpu', "model.layers.2"),
        ('place "model.layers[2]" on cpu', "model.layers.2"),
        ("atomic model.layer.*", "model.layers.*"),
    ],
)
def test_a_range_is_suggested_where_a_range_was_meant(line, meant):
    finding = only(overridden(line)[1])
    assert (finding.code, finding.help) == ("unknown-path", f"did you mean `{meant}`?")


@pytest.mark.parametrize("line", ["place model.layers.9 on cpu", "place model.layers.2-9 on cpu"])
def test_what_was_meant_by_a_number_beyond_the_end_is_not_guessed(line):
    finding = only(overridden(line)[1])
    assert finding.help == "correct or remove the line"
    assert finding.notes == ("`model.layers` has 8 members, `0` to `7`",)


@pytest.mark.parametrize(
    ("line", "help_"),
    [
        ("place a.b to cpu", "write `place a.b on cpu`"),
        ("place a.b -> cpu  # why", "write `place a.b on cpu`"),
        ("  place a.b cpu", "write `place a.b on cpu`"),
        ("place a:3 on cpu", "write `place a.3 on cpu`"),
        ("place a on cpu run cuda:0", "write `place a on cpu run on cuda:0`"),
        ("device cuda:0 10GiB", "write `device cuda:0 memory 10GiB`"),
        ("reserve 1GiB on cpu for kv cache", 'write `reserve 1GiB on cpu for "kv cache"`'),
        ("reserve 1GiB on cpu for a for b", 'write `reserve 1GiB on cpu for "a for b"`'),
        ("a.3: cpu", "write `place a.3 on cpu`"),
        ('  "a.3": 0,', "write `place a.3 on cuda:0`"),
        ("place a. on cpu", "write `a`"),
    ],
)
def test_the_help_of_a_line_that_cannot_be_read_can_be_pasted(line, help_):
    _, found = parse_collecting(line)
    assert only(found).help == help_


def test_a_tie_the_model_does_not_have_is_no_wish():
    finding = only(overridden("tie model.embed.weight = lm_head.weight")[1])
    assert finding.code == "contradiction"
    assert overridden("together model.embed.weight lm_head.weight")[1] == ()
    assert only(overridden("tie model.embed.weight = lm_hed.weight")[1]).code == "unknown-path"


def test_never_on_any_device_is_a_contradiction_of_all_its_lines():
    lines = "".join(f"never lm_head on {device}\n" for device in ("cuda:0", "cuda:1", "cpu"))
    finding = only(overridden(lines)[1])
    assert finding.message == "`lm_head.weight` may be on none of the devices"
    assert len(finding.also) == 2
    assert overridden(lines.replace("never lm_head on cpu\n", ""))[1] == ()


def test_a_reserve_beyond_the_budget_is_shown_where_it_is_written():
    finding = only(overridden("reserve 200KiB on cuda:0")[1])
    assert finding.code == "pins-over-budget"
    assert finding.message == "lines keep 200.0KiB free on `cuda:0`, which has 138.0KiB"
    assert overridden("device cuda:0 memory 200KiB\nreserve 200KiB on cuda:0\nsplit model")[1] == ()


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ("never a on cpu\nplace a on cpu", "contradiction"),
        ("never a.* on cpu\nplace a.b on cpu", "contradiction"),
        ("never a.b on cpu\nplace a on cpu", "contradiction"),
        ("never a on cpu\nplace a.b on cpu", "contradiction"),
        ("never a on cuda:0\nplace a on cpu run on cuda:0", "contradiction"),
        ("together a b\nplace a on cpu\nplace b on cuda:0", "contradiction"),
        ("tie a.w = b.w\nplace a on cpu\nplace b on cuda:0", "contradiction"),
        ("split a\natomic a", "contradiction"),
    ],
)
def test_a_contradiction_is_seen_without_the_model(lines, code):
    finding = only(contradictions_of_text(parse(lines)))
    assert finding.code == code
    assert finding.at is not None
    assert finding.also


@pytest.mark.parametrize(
    "lines",
    [
        "never a on cpu\nplace b on cpu",
        "never a.b on cpu\nplace a on cpu\nplace a.b on cuda:0",
        "never a on cpu\nplace a on cpu\nplace a on cuda:0",
        "never **.norm on cpu\nplace model on cpu",
        "atomic a\nplace a.b on cpu",
        "split a\natomic a.b",
        "split a\natomic class A\nplace a on cpu",
        "tie a.w = b.w\nplace a on cpu",
        "place . on cpu\nnever *.x on cuda:0",
        "never . on cuda:0",
        'never "a b.{c}" on cpu\nplace "a b" on cuda:0',
    ],
)
def test_what_may_hold_in_some_model_is_not_reported_without_one(lines):
    assert contradictions_of_text(parse(lines)) == ()

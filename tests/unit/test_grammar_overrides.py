"""Hand-written lines meet a model: what they decide, and what is said when they cannot hold."""

from __future__ import annotations

from dataclasses import replace

import pytest
from compile_plan.compiler.lines.binding import bind_plan
from compile_plan.compiler.passes.apply_overrides import ApplyOverrides
from compile_plan.grammar import parse, print_plan
from compile_plan.ir import Diagnostics, Reserve, Severity, verify

MODEL = """
device cuda:0 memory 20KiB
device cuda:1 memory 20KiB
device cpu memory 1MiB
module . : Model
module model : Inner
module model.embed : Embedding 4KiB
module model.layers : ModuleList
module model.layers.{0..3} : Block
parameter model.layers.{0..3}.scale : uint8[8] 8B
module model.layers.{0..3}.attn : Attention 2KiB
module model.layers.{0..3}.drop : Dropout
module model.layers.{0..3}.mlp : Mlp 2KiB
module lm_head : Linear
parameter lm_head.weight : uint8[4096] 0B
tie model.embed.weight = lm_head.weight
"""


def applied(*overrides, model=MODEL):
    """Apply override texts to the model and return the plan and what was found."""
    diagnostics = Diagnostics()
    texts = tuple(parse(text, name=f"edits{i}.plan") for i, text in enumerate(overrides))
    return ApplyOverrides(texts).run(parse(model), diagnostics), tuple(diagnostics)


def only(found, code):
    assert [each.code for each in found] == [code]
    return found[0]


def text_at(label):
    return label.span.source.text[label.span.start : label.span.end]


def places(plan):
    return [(unit.path, unit.store, unit.run) for unit in plan.units]


def test_nested_pins_nest_in_layers_only_and_stand_in_tree_order():
    plan, found = applied("place model.layers.1.mlp on cpu run on cuda:0\nplace model.layers on cuda:0")
    assert found == ()
    assert places(plan) == [
        ("model.layers.0", "cuda:0", "cuda:0"),
        ("model.layers.1", "cuda:0", "cuda:0"),
        ("model.layers.1.mlp", "cpu", "cuda:0"),
        ("model.layers.2", "cuda:0", "cuda:0"),
        ("model.layers.3", "cuda:0", "cuda:0"),
    ]


def test_the_later_of_equal_lines_wins_across_files():
    plan, found = applied("place model.layers.0 on cuda:0", "place model.layers.0 on cuda:1")
    assert places(plan) == [("model.layers.0", "cuda:1", "cuda:1")]
    warning = only(found, "line-never-wins")
    assert warning.severity is Severity.WARNING
    assert text_at(warning.at) == "place model.layers.0 on cuda:0"
    assert text_at(warning.also[0]) == "place model.layers.0 on cuda:1"


def test_wildcards_name_the_outermost_modules_they_match():
    plan, _ = applied("place model.** on cpu\nplace model.layers.*.mlp on cuda:0")
    assert ("model.layers.2", "cpu", "cpu") in places(plan)
    assert [path for path, store, _ in places(plan) if store == "cuda:0"] == [
        f"model.layers.{layer}.mlp" for layer in range(4)
    ]


def test_what_is_on_disk_runs_on_the_first_accelerator():
    plan, found = applied('device disk at "offload"\nplace model.layers.0 on disk')
    assert found == ()
    assert places(plan) == [("model.layers.0", "disk", "cuda:0")]


def test_applying_twice_is_applying_once():
    override = parse('reserve 1KiB on cpu for "x"\nplace model.layers.* on cpu\natomic class Mlp')
    once = ApplyOverrides((override,)).run(parse(MODEL), Diagnostics())
    assert ApplyOverrides((override,)).run(once, Diagnostics()) == once


def test_device_lines_alone_are_the_machine():
    plan, _ = applied("device cuda:0 memory 9GiB reserve 1GiB")
    assert [(device.name, device.memory) for device in plan.devices] == [("cuda:0", 9 * 2**30)]
    assert plan.reserves == (Reserve(2**30, "cuda:0"),)


def test_device_lines_among_others_exchange_budgets():
    plan, _ = applied("device cuda:1 memory 5KiB\ndevice cuda:2 memory 7KiB\nsplit model")
    assert [(device.name, device.memory) for device in plan.devices] == [
        ("cuda:0", 20480), ("cuda:1", 5120), ("cuda:2", 7168), ("cpu", 2**20),
    ]  # fmt: skip


def test_the_same_reserve_of_a_later_file_replaces():
    plan, _ = applied(
        'reserve 1KiB on cuda:0 for "kv"\nsplit model', 'reserve 2KiB on cuda:0 for "kv"\nsplit model'
    )
    assert plan.reserves == (Reserve(2048, "cuda:0", "kv"),)


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("place model.layerz.0 on cpu", "did you mean `model.layers.0`?"),
        ("place modle.layres.0 on cpu", "did you mean `model.layers.0`?"),
        ("split modle.layers", "did you mean `model.layers`?"),
        ("never lm_haed on cpu", "did you mean `lm_head`?"),
        ("together lm_haed model.embed", "did you mean `lm_head`?"),
        ("place model.layers.9 on cpu", "correct or remove the line"),
        ("place model.layers.*.zzz on cpu", "correct or remove the line"),
    ],
)
def test_a_path_that_names_nothing_is_an_error(line, meant):
    finding = only(applied(line)[1], "unknown-path")
    assert finding.help == meant
    assert text_at(finding.at) == line


def test_a_stack_that_is_too_long_is_one_finding_with_the_size_of_the_stack():
    finding = only(applied("place model.layers.{0..7} on cpu")[1], "unknown-path")
    assert finding.message == "`model.layers.{4..7}` names nothing in this model"
    assert finding.notes == ("`model.layers` has 4 members, `0` to `3`",)


@pytest.mark.parametrize(
    ("lines", "message", "hint"),
    [
        (
            "place layers.0 on cpu\nplace layers.{1..2} on cuda:0\nplace layers.3.mlp on cpu",
            "4 paths name nothing: prefix `model.` is missing",
            "write `model.` before each of these paths",
        ),
        (
            "place base_model.model.lm_head on cpu\nplace base_model.model.model.layers.* on cpu",
            "2 paths name nothing: prefix `base_model.model.` is not in this model",
            "remove `base_model.model.` from these paths",
        ),
        (
            "place transformer.layers.0 on cpu\nplace transformer.embed on cpu",
            "2 paths name nothing: prefix `transformer.` is `model.` in this model",
            "write `model.` for `transformer.`",
        ),
    ],
)
def test_a_moved_prefix_is_one_finding(lines, message, hint):
    finding = only(applied(lines)[1], "renamed-prefix")
    assert (finding.message, finding.help) == (message, hint)


def test_a_class_that_does_not_exist_is_an_error():
    finding = only(applied("atomic class Blokc")[1], "unknown-class")
    assert finding.help == "did you mean `Block`?"


@pytest.mark.parametrize(
    ("lines", "code", "shown"),
    [
        ("never model.layers.2 on cuda:0\nplace model.layers on cuda:0", "contradiction",
         ["place model.layers on cuda:0", "never model.layers.2 on cuda:0"]),
        ("place model.layers on cpu run on cuda:0\nnever **.mlp on cuda:0", "contradiction",
         ["place model.layers on cpu run on cuda:0", "never **.mlp on cuda:0"]),
        ("place lm_head on cuda:0\nplace model.embed on cuda:1", "contradiction",
         ["place lm_head on cuda:0", "place model.embed on cuda:1"]),
        ("together model.layers.0 model.layers.1\nplace model.layers.0 on cpu\nplace model.layers.1 on cuda:0",  # noqa: E501
         "contradiction", ["place model.layers.1 on cuda:0", "place model.layers.0 on cpu",
                           "together model.layers.0 model.layers.1"]),
        ("split model.layers.1\natomic class Block", "contradiction", ["split model.layers.1", "atomic class Block"]),  # noqa: E501
        ("atomic model.layers.*\nnever **.mlp on visiting\nplace model.layers.2.mlp on cpu", "pin-inside-atomic",  # noqa: E501
         ["place model.layers.2.mlp on cpu", "atomic model.layers.*"]),
        ("split lm_head", "split-of-leaf", ["split lm_head"]),
        ("place lm_head on cuda:5", "undeclared-device", ["place lm_head on cuda:5"]),
    ],
)  # fmt: skip
def test_contradictions_show_every_line(lines, code, shown):
    finding = only(applied(lines)[1], code)
    assert [text_at(label) for label in (finding.at, *finding.also)] == shown
    assert finding.help


def test_parts_that_make_a_whole_atomic_module_are_one_pin():
    plan, found = applied("atomic class Block\nplace model.layers.0.{scale,attn,mlp} on cuda:1")
    assert found == ()
    assert places(plan) == [("model.layers.0", "cuda:1", "cuda:1")]


def test_lines_that_overrun_a_budget_say_by_how_much():
    lines = "device cuda:1 memory 5KiB\nreserve 1KiB on cuda:1\nplace model.layers.0 on cuda:1\nplace lm_head on cuda:1"  # noqa: E501
    finding = only(applied(lines)[1], "pins-over-budget")
    assert finding.notes == ("8200 bytes placed + 1024 kept free = 9224 > 5120",)
    assert finding.help == "move 4.0KiB elsewhere, or give it `memory 9224B`"


def test_after_the_change_the_help_suggests_the_lines_hold():
    lines = "device cuda:1 memory 9224B\nreserve 1KiB on cuda:1\nplace model.layers.0 on cuda:1\nplace lm_head on cuda:1"  # noqa: E501
    assert applied(lines)[1] == ()


def test_errors_are_collected():
    found = applied("place zzz on cpu\nplace lm_head on cuda:5\natomic class Nope\nsplit model.embed")[1]
    assert {each.code for each in found} == {
        "unknown-path",
        "undeclared-device",
        "unknown-class",
        "split-of-leaf",
    }


def bound(text):
    tree = parse(MODEL).tree
    diagnostics = Diagnostics()
    plan = bind_plan(parse(text), tree, diagnostics)
    return plan, tuple(diagnostics)


DEVICES = 'model "m" digest 0\ndevice cuda:0 memory 20KiB\ndevice cpu memory 1MiB\n'


def test_a_complete_plan_is_bound_to_disjoint_units():
    plan, found = bound(f"{DEVICES}place . on cpu\nplace model.layers.* on cuda:0")
    assert found == ()
    assert places(plan) == [
        ("model.embed", "cpu", "cpu"),
        *((f"model.layers.{layer}", "cuda:0", "cuda:0") for layer in range(4)),
        ("lm_head", "cpu", "cpu"),
    ]
    assert verify(plan) == ()
    again, _ = bound(print_plan(plan))
    assert again == plan


def test_a_module_without_tensors_keeps_its_line():
    plan, _ = bound(f"{DEVICES}place . on cpu\nplace model.layers.0.{{attn,drop,mlp,scale}} on cpu")
    assert ("model.layers.0.drop", "cpu", "cpu") in places(plan)


@pytest.mark.parametrize(
    ("places_text", "messages"),
    [
        ("place model on cpu", ["`lm_head` has no place"]),
        ("place lm_head on cpu\nplace model.embed on cpu\nplace model.layers.{0,3} on cpu",
         ["the 2 members of `model.layers.{1,2}` have no place"]),
        ("place lm_head on cpu\nplace model.embed on cpu\nplace model.layers.*.{attn,mlp} on cpu",
         ["the 4 members of `model.layers.{0..3}.scale` have no place"]),
    ],
)  # fmt: skip
def test_what_no_line_places_is_named_once(places_text, messages):
    _, found = bound(DEVICES + places_text)
    assert [each.message for each in found] == messages
    fixed, again = bound(f"{DEVICES}{places_text}\n{found[0].help.removeprefix('add `').removesuffix('`')}")
    assert again == ()
    assert verify(fixed) == ()


def test_overrides_need_no_sizes():
    plan = parse(MODEL)
    bare = replace(plan, tree=replace(plan.tree, nbytes=None))
    result = ApplyOverrides((parse("place model on cuda:0"),)).run(bare, Diagnostics())
    assert places(result) == [("model", "cuda:0", "cuda:0")]

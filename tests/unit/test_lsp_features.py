"""What an editor is told about a text: findings, words, sizes, edits, fixes."""

from __future__ import annotations

from pathlib import Path

import pytest
from compile_plan.compiler.lsp import (
    apply_edits,
    check,
    complete,
    fixes,
    format_edit,
    hover,
    lenses,
    rename_device,
    renamed_word,
)
from compile_plan.compiler.lsp.companion import find_companion, read_companion
from compile_plan.compiler.lsp.positions import Positions
from compile_plan.grammar import parse, parse_collecting
from compile_plan.ir import PlanError

MODEL = parse("""
device cuda:0 memory 20KiB
device cuda:1 memory 20KiB
device cpu memory 1MiB
module . : Model
module model : Inner
module model.embed : Embedding 4KiB
module model.layers : ModuleList
module model.layers.{0..3} : Block
module model.layers.{0..3}.attn : Attention 2KiB
module model.layers.{0..3}.mlp : Mlp 2KiB
module "odd name" : Linear 1KiB
module lm_head : Linear 4KiB
""")


def words(text, companion=MODEL):
    """Complete at the end of a text."""
    return [each.edit.text for each in complete(text, len(text), companion)]


def codes(text, companion=MODEL):
    return [each.code for each in check(text, companion=companion)]


def hovered(text, word, companion=MODEL):
    found = hover(text, text.index(word) + 1, companion)
    return None if found is None else (text[found.start : found.end], found.text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pl", ["place", "plan", "split"]),
        ("place model.", ["model.embed", "model.layers"]),
        (
            "place model.layers.",
            ["model.layers.{0..3}", *(f"model.layers.{i}" for i in range(4))],
        ),
        ("place model.layers.{0..2}.", ["model.layers.{0..2}.attn", "model.layers.{0..2}.mlp"]),
        ("place model.layers.*.m", ["model.layers.*.mlp"]),
        ("place model.embed.", ["model.embed.weight"]),
        ("place odd", ['"odd name"']),
        ("place lm_head ", ["on"]),
        ("place lm_head on cu", ["cuda:0", "cuda:1"]),
        ("place lm_head on cpu ", ["added", "run"]),
        ("place lm_head on cpu run on cp", ["cpu"]),
        ("together lm_head model.e", ["model.embed"]),
        ("atomic class At", ["Attention"]),
        ("device cuda:0 mem", ["memory"]),
        ('reserve 1GiB on cpu for "kv', []),
        ("reserve 1GiB on cpu for k", ['"kv cache"', '"kept activations"']),
        ("# pla", []),
        ("plcae x ", []),
    ],
)
def test_completion_offers_what_may_stand_there(text, expected):
    assert words(text) == expected


def test_completion_without_a_model_knows_keywords_and_the_devices_of_the_text():
    assert words("device cuda:7 memory 1GiB\nplace x on ", None) == ["cuda:7"]
    assert words("place x on ", None) == ["cuda:0", "cpu", "disk"]
    assert words("place ", None) == []


def test_completion_replaces_the_unfinished_word_only():
    text = "# first\nplace model.em on cpu"
    at = text.index(" on cpu")
    (found,) = complete(text, at, MODEL)
    assert apply_edits(text, (found.edit,)) == "# first\nplace model.embed on cpu"
    assert found.detail == "Embedding 4.0KiB"


def test_an_override_file_is_checked_against_the_model():
    assert codes("place model.layers.{0..3} on cuda:0") == []
    assert codes("place model.layerz.0 on cuda:0") == ["unknown-path"]
    assert codes("atomic class Blok") == ["unknown-class"]
    assert codes("place lm_head on cuda:5") == ["undeclared-device"]
    assert codes("place model on cuda:0\nplace lm_head on cuda:0") == ["pins-over-budget"]


def test_findings_of_good_lines_stay_while_another_line_is_being_typed():
    assert codes("place model.layerz.0 on cuda:0\nplace lm_head o") == ["unexpected-word", "unknown-path"]


def test_a_complete_plan_is_checked_for_what_it_leaves_out():
    text = 'model "m"\ndevice cpu memory 1MiB\nplace model on cpu\n'
    assert codes(text) == ["tensor-without-place", "tensor-without-place"]
    assert codes(text + 'place lm_head on cpu\nplace "odd name" on cpu\n') == []
    assert codes(text + "plcae lm_head on cpu\n") == ["unknown-keyword"]


def test_a_text_with_a_table_is_its_own_model():
    text = "device cpu memory 1KiB\nmodule a : Linear 512B\nmodule b : Linear 1KiB\nplace a on cpu\n"
    assert codes(text, None) == ["tensor-without-place"]
    assert codes(f"{text}place b on cpu\n", None) == ["pins-over-budget"]
    assert words(f"{text}place ", None) == ["a", "b"]


def test_without_a_model_only_what_is_certain_is_said():
    assert codes("never lm_head on cuda:0\nplace lm_head on cuda:0", None) == ["contradiction"]
    assert codes("place anything.at.all on cuda:0", None) == []


def test_budgets_are_not_asked_for_where_the_companion_has_none():
    assert (
        codes("place lm_head on cuda:3\nnever model on cuda:3", parse("module lm_head : L\nmodule model : M"))
        == []
    )


def test_hover_tells_sizes_places_and_forms():
    plan = parse(
        "device cpu memory 8KiB\nmodule a : Linear 1KiB\nmodule b.{0..2} : Linear 1KiB\n"
        "place a on cpu\nplace b on cpu"
    )
    assert hovered("place a on cpu", "a on", plan) == (
        "a",
        (
            "**a**\n\n- is: Linear, 1.0KiB, 1 tensor\n- stored on: cpu\n"
            "- why there: a line of the plan or an override file says so (<text>:4)\n"
            "- to change: `place a on DEVICE` in an override file"
        ),
    )
    assert hovered("place b.{0,2} on cpu", "b.", plan)[1].startswith("2 members, 2.0KiB together")
    assert hovered("place a on cpu", "cpu", plan) == ("cpu", "**cpu** memory 8.0KiB")
    assert hovered("atomic class Linear", "Linear", plan)[1].startswith("**Linear** 4 modules")
    assert hovered("  place a on cpu", "place") == (
        "place",
        "`place PATTERN on DEVICE` or `place PATTERN on DEVICE run on DEVICE by rows`",
    )
    assert hovered("place a on cpu  # a note", "note", plan) is None
    assert hovered("place nothing on cpu", "nothing", plan) is None


def test_hover_shows_the_ledger_of_a_device():
    from compile_plan.compiler.passes.account_memory import AccountMemory
    from compile_plan.ir import Diagnostics

    plan = parse("device cpu memory 8KiB\nreserve 1KiB on cpu\nmodule a : Linear 2KiB\nplace a on cpu")
    plan = AccountMemory().run(plan, Diagnostics())
    assert hovered("place a on cpu", "cpu", plan)[1] == (
        "**cpu** memory 8.0KiB\n\n3.0KiB taken, 5.0KiB free\n\n- weights 2.0KiB\n- reserve 1.0KiB"
    )


def above(text, companion=MODEL):
    """Return what is shown above each line, by the line."""
    return {text[each.start : each.end]: each.title for each in lenses(text, companion)}


def test_a_lens_has_the_bytes_a_line_decides_and_the_room_it_leaves():
    text = (
        "place model on cuda:1\n"
        "place model.layers.{0..2} on cuda:0  # all but one part of it\n"
        "place model.layers.1.mlp on cpu run on cuda:0\n"
        "never lm_head on cpu\n"
    )
    assert above(text) == {
        "place model on cuda:1": "8.0KiB · 12.0KiB left on cuda:1",
        "place model.layers.{0..2} on cuda:0": "10.0KiB · 8.0KiB left on cuda:0",
        "place model.layers.1.mlp on cpu run on cuda:0": (
            "2.0KiB · 1022.0KiB left on cpu · 8.0KiB left on cuda:0"
        ),
    }


def test_a_lens_says_by_how_much_a_device_is_over_while_other_lines_are_wrong():
    text = (
        "device cuda:0 memory 3KiB\nplace lm_head on cuda:0\nplace layerz on cuda:7 run on xpu:1\nplace x o"
    )
    assert codes(text) != []
    assert above(text) == {
        "device cuda:0 memory 3KiB": "4.0KiB taken · cuda:0 is over by 1.0KiB",
        "place lm_head on cuda:0": "4.0KiB · cuda:0 is over by 1.0KiB",
        "place layerz on cuda:7 run on xpu:1": "0B",
    }
    assert above("place lm_head on cpu run on cuda:7") == {
        "place lm_head on cpu run on cuda:7": "4.0KiB · 1.0MiB left on cpu"
    }


def test_a_lens_counts_ties_needs_and_reserves_as_the_ledger_does():
    text = """\
model "m"
device cuda:{0..1} memory 16KiB pool all
device disk
tie embed.weight = head.weight
demand 1KiB with block for "kv cache"
reserve 2KiB on cuda:1
module . : Model
module embed : Embedding
parameter embed.weight : float32[1024] 4KiB
module block : Block 3KiB
module head : Linear
parameter head.weight : float32[1024] 0B
place head on cuda:0
place block on cuda:1
"""
    shown = above(text, None)
    assert shown["place head on cuda:0"] == "4.0KiB · 6.0KiB left on cuda:0"
    assert shown["place block on cuda:1"] == "3.0KiB · 6.0KiB left on cuda:1"
    assert shown["device disk"] == "0B taken"


def test_without_a_model_nothing_is_shown_above_a_line():
    assert above("place lm_head on cpu", None) == {}


def test_formatting_is_one_edit_or_none():
    text = "place   a   on cpu# kept\n"
    assert apply_edits(text, (format_edit(text),)) == "place a on cpu  # kept\n"
    assert format_edit("place a on cpu\n") is None
    assert format_edit("plcae a on cpu\n") is None


def test_renaming_a_device_follows_every_spelling_and_nothing_else():
    text = (
        'device 0 memory 1GiB\nplace a on cuda:0 run on 0\nnever "cuda:0" on cuda:0  # cuda:0\n'
        "place b on cuda:1\n"
    )
    assert apply_edits(text, rename_device(text, text.index("cuda:0") + 3, "cuda:4")) == (
        'device cuda:4 memory 1GiB\nplace a on cuda:4 run on cuda:4\nnever "cuda:0" on cuda:4  # cuda:0\n'
        "place b on cuda:1\n"
    )
    assert renamed_word(text, text.index("place a")) is None
    with pytest.raises(PlanError) as caught:
        rename_device(text, text.index("cuda:0"), "gpu 4")
    assert caught.value.diagnostics[0].code == "unknown-device"


@pytest.mark.parametrize(
    ("text", "fixed"),
    [
        ("plcae lm_head on cpu\n", "place lm_head on cpu\n"),
        ("place model.layerz.0 on cpu  # why\n", "place model.layers.0 on cpu  # why\n"),
        ("atomic class Atention\n", "atomic class Attention\n"),
        ("place lm_head on cpu\nplace lm_head on cuda:0\n", "place lm_head on cuda:0\n"),
        ("place inner.embed on cpu\nplace inner.layers.0 on cpu\n",
         "place model.embed on cpu\nplace model.layers.0 on cpu\n"),
        ("never lm_head on cpu\nplace lm_head on cpu\n", "never lm_head on cpu\n"),
        ("split lm_head\n", ""),
        ("device cuda:1 memory 20 KiB  # all\n", "device cuda:1 memory 20KiB  # all\n"),
        ("place model.layers.{0..9} on cpu\n", "place model.layers.{0..3} on cpu\n"),
        ('place "model/embed" on cpu\n', "place model.embed on cpu\n"),
        ("place lm_head cpu  # why\n", "place lm_head on cpu  # why\n"),
        ('option stratgy "auto"  # why\n', 'option strategy "auto"  # why\n'),
        ('option strategy "balancd"\n', 'option strategy "balanced"\n'),
        ('option dtype "bfloat"\n', None),
        ("option reserves 1GiB\n", ""),
    ],
)  # fmt: skip
def test_a_fix_removes_its_finding(text, fixed):
    (finding,) = check(text, companion=MODEL)
    found = fixes(text, finding)
    assert found
    after = [apply_edits(text, fix.edits) for fix in found]
    assert all(check(each, companion=MODEL) == () for each in after)
    assert fixed is None or after[0] == fixed


@pytest.mark.parametrize(
    "text",
    [
        "plcae a on cpu  # why",
        "place a cpu  # why",
        "a: cpu  # why",
        "device cpu memory 10 GiB # why",
        "device cpu memroy 1GiB",
        "device cpu memory 1GiB memory 2GiB  # why",
        "device cpu memory 1GiB\ndevice cpu memory 2GiB",
        "place a on gpu7",
        "place a on cudo:0",
        "place a..b on cpu",
        "place model:layers on cpu",
        "reserve 1GiB cuda:0",
        "link cuda:0 cuda:1 5GB/s",
        "workload rows 0 prompt 4 tokens 4  # why",
        "plan 2  # why",
        'option offload "none"\noption offload "stream"',
        "module a : L\nmodule a : M",
        "module a : L 1KiB\nparameter a.weight : int8[4]",
        "place a on cpu\nplace a on cuda:0",
    ],
)
def test_every_fix_of_a_text_alone_removes_its_finding_and_keeps_the_comment(text):
    (finding,) = parse_collecting(text)[1]
    offered = fixes(text, finding)
    assert offered
    for action in offered:
        after = apply_edits(text, action.edits)
        assert parse_collecting(after)[1] == ()
        assert after.endswith("# why") == text.endswith("# why")


RULES = sorted((Path(__file__).parents[1] / "golden" / "rules").glob("*.plan"))


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.stem)
def test_every_fix_of_the_examples_of_the_rules_removes_its_finding(path):
    """Beside the small model, or alone where it is no override; what a line broke may show another."""
    text = path.read_text("utf-8")
    companion = parse((path.parent / "model.plan").read_text("utf-8")) if "--override" in text else None
    for finding in check(text, companion=companion):
        for action in fixes(text, finding):
            after = check(apply_edits(text, action.edits), companion=companion)
            assert (finding.code, finding.message) not in {(each.code, each.message) for each in after}


def test_a_line_that_says_more_than_its_fix_is_left_to_a_person():
    plan = "device cuda:0 memory 1MiB\ndevice cpu memory 1MiB\nnever model.layers.1 on streaming\n"
    text = f"{plan}place model.layers.{{0..3}} on cpu run on cuda:0\n"
    (finding,) = check(text, companion=MODEL)
    assert "write `place model.layers.1" in finding.help
    assert fixes(text, finding) == ()


def test_a_fix_for_one_text_is_not_offered_in_another():
    (finding,) = parse_collecting("place a on gpu7")[1]
    assert fixes("place a on gpu8", finding) == ()


def test_a_finding_says_what_it_is_about():
    texts = {
        "place lm_heat on cpu": "lm_heat",
        "place lm_head on cuda:5": "cuda:5",
        "atomic class Blok": "Blok",
        "split lm_head": "lm_head",
        "never lm_head on cpu\nplace lm_head on cpu": "lm_head",
        "place model on cuda:0\nplace lm_head on cuda:0": "cuda:0",
    }
    assert {text: check(text, companion=MODEL)[0].about for text in texts} == texts


def test_the_companion_is_named_or_found(tmp_path):
    edits = tmp_path / "edits.plan"
    assert find_companion(edits, "") is None
    (tmp_path / "one.msgpack").write_bytes(b"not a plan")
    assert find_companion(edits, "") == tmp_path / "one.msgpack"
    (tmp_path / "two.msgpack").write_bytes(b"")
    assert find_companion(edits, "") is None
    (tmp_path / "edits.msgpack").write_bytes(b"")
    assert find_companion(edits, "") == tmp_path / "edits.msgpack"
    assert find_companion(edits, "plan 1\n# model: two.msgpack\n") == tmp_path / "two.msgpack"
    assert find_companion(edits, "# model: none.msgpack") is None
    assert read_companion(tmp_path / "one.msgpack") is None
    (tmp_path / "table.plan").write_text("module a : Linear 1KiB\n")
    assert read_companion(tmp_path / "table.plan").tree.paths == ("", "a")


@pytest.mark.parametrize(("encoding", "column"), [("utf-8", 7), ("utf-16", 5), ("utf-32", 4)])
def test_columns_are_counted_in_the_units_of_the_editor(encoding, column):
    text = "\na 🙂 b\n"
    positions = Positions(text, encoding)
    assert positions.position(text.index("b")) == (1, column)
    assert positions.offset(1, column) == text.index("b")
    assert positions.offset(1, 99) == text.index("\n", 1)
    assert positions.offset(9, 0) == len(text)


def test_a_line_ends_at_a_line_feed_only():
    text = "# one\u2028still one\nplace x on cpu"
    assert Positions(text).position(text.index("place")) == (1, 0)

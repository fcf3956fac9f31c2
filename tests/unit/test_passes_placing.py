"""First fit, its repair, and what is said about a placement, on plans small enough to check by hand."""

from __future__ import annotations

import pytest
from compile_plan.compiler import compile_model
from compile_plan.compiler.passes.account_memory import AccountMemory
from compile_plan.compiler.passes.assign_greedy import AssignGreedy
from compile_plan.compiler.passes.emit_warnings import EmitWarnings
from compile_plan.compiler.passes.expand_splits import ExpandSplits
from compile_plan.compiler.passes.merge_ties import MergeTies
from compile_plan.compiler.passes.rewrite_fallbacks import RewriteFallbacks
from compile_plan.compiler.sources.live import MAX_MODULES, lower_model, no_split_classes, untied
from compile_plan.grammar import parse
from compile_plan.ir import Diagnostics, PlanError, Reason, unit_of_tensors
from torch import nn

CARDS = "device cuda:0 memory 4KiB\ndevice cuda:1 memory 4KiB\ndevice cpu memory 1MiB\n"
FOUR = "".join(f"module {name} : Linear 2KiB\n" for name in "abcd")


def placed(text, *more):
    plan = parse(f'plan 1\nmodel "m"\n{text}')
    for step in (MergeTies(), ExpandSplits(), AssignGreedy(), *more):
        plan = step.run(plan, Diagnostics())
    return plan


def where(plan):
    return {unit.path: unit.store for unit in plan.units}


def said(plan, **options):
    diagnostics = Diagnostics()
    assert EmitWarnings(**options).run(plan, diagnostics) is plan
    return list(diagnostics)


def test_a_pin_keeps_its_place_and_its_room():
    plan = placed(CARDS + FOUR + "place d on cuda:0\n")
    assert where(plan) == {"a": "cuda:0", "b": "cuda:1", "c": "cuda:1", "d": "cuda:0"}
    assert {unit.path for unit in plan.units if unit.reason is Reason.WRITTEN} == {"d"}


def test_what_is_tied_to_a_pin_goes_where_the_pin_is():
    plan = placed(CARDS + FOUR + "tie a.weight = d.weight\nplace d on cuda:1\n")
    assert where(plan)["a"] == "cuda:1"


def test_a_ban_moves_a_unit_on_and_what_follows_stays_behind():
    plan = placed(CARDS + FOUR + "never a on cuda:0\n")
    assert where(plan) == {"a": "cuda:1", "b": "cuda:0", "c": "cuda:0", "d": "cuda:1"}


def test_what_is_banned_everywhere_has_no_place():
    bans = "".join(f"never a on {device}\n" for device in ("cuda:0", "cuda:1", "cpu"))
    assert where(placed(CARDS + FOUR + bans))["a"] is None


def test_what_belongs_together_is_placed_together():
    plan = placed(CARDS + FOUR + "together a d\n")
    assert where(plan) == {"a": "cuda:0", "b": "cuda:1", "c": "cuda:1", "d": "cuda:0"}


def test_devices_of_one_pool_share_its_memory():
    pool = (
        "device cuda:0 memory 4KiB pool soc 5KiB\ndevice cpu memory 5KiB pool soc 5KiB\n"
        'device disk at "offload"\n'
    )
    stored = where(placed(pool + FOUR))
    sizes = {device: 2 * list(stored.values()).count(device) for device in ("cuda:0", "cpu")}
    assert sum(sizes.values()) <= 5
    assert "disk" in stored.values()


def test_room_to_stream_is_kept_only_where_something_is_streamed():
    assert where(placed(CARDS + FOUR)) == {"a": "cuda:0", "b": "cuda:0", "c": "cuda:1", "d": "cuda:1"}
    five = placed(CARDS + FOUR + "module e : Linear 2KiB\n")
    assert list(where(five).values()).count("cuda:0") == 1
    assert {unit.run for unit in five.units if unit.store == "cpu"} == {"cuda:0"}


def test_a_disk_without_anything_that_computes_holds_nothing():
    assert where(placed('device disk at "offload"\n' + FOUR)) == dict.fromkeys("abcd")


def test_a_whole_offloaded_unit_moves_to_a_card_with_room():
    text = (
        "device cuda:0 memory 3KiB\ndevice cuda:1 memory 4KiB\ndevice cpu memory 1MiB\n"
        "module a : Linear 2KiB\nmodule b : Linear 4KiB\nmodule c : Linear 1KiB\n"
    )
    assert where(placed(text))["c"] == "cpu"
    repaired = placed(text, RewriteFallbacks())
    assert where(repaired) == {"a": "cuda:0", "b": "cuda:1", "c": "cuda:0"}
    assert {unit.path: unit.reason for unit in repaired.units}["c"] is Reason.FALLBACK


def test_a_tie_that_does_not_fit_stays_together_when_the_rest_is_repaired():
    text = (
        "device cuda:0 memory 3KiB\ndevice cuda:1 memory 3KiB\ndevice cpu memory 1MiB\n"
        "module body : Block\nmodule body.embed : Linear 4KiB\nmodule body.norm : Linear 1KiB\n"
        "module head : Linear 4KiB\ntie body.embed.weight = head.weight\n"
    )
    plan = placed(text, RewriteFallbacks())
    owners = unit_of_tensors(plan.tree, plan.units)
    embed, head = (owners[plan.tree.tensor_index[f"{name}.weight"]] for name in ("body.embed", "head"))
    assert plan.units[embed].store == plan.units[head].store == "cpu"


def test_a_repaired_plan_keeps_room_on_the_card_that_streams():
    text = (
        "device cuda:0 memory 3KiB\ndevice cuda:1 memory 8KiB\ndevice cpu memory 1MiB\n"
        "module a : Linear 4KiB\nmodule b : Linear 4KiB\nmodule c : Linear 1KiB\nmodule d : Linear 4KiB\n"
    )
    plan = placed(text, RewriteFallbacks())
    (runner,) = {unit.run for unit in plan.units if unit.store == "cpu"}
    assert runner == "cuda:1"
    assert list(where(plan).values()).count("cuda:1") == 1


def test_nothing_to_repair_is_the_very_same_plan():
    plan = placed(CARDS + FOUR)
    assert RewriteFallbacks().run(plan, Diagnostics()) is plan


def test_the_minimum_named_for_an_empty_card_is_enough_and_a_byte_less_is_not():
    text = "device cuda:0 memory {}B\ndevice cpu memory 1MiB\nmodule a : Linear 2KiB\n"
    text += "place . on cpu run on cuda:0\n"
    (warning,) = said(parse('plan 1\nmodel "m"\n' + text.format(1024)))
    assert warning.code == "device-left-empty"
    assert warning.notes[0].startswith("2048 bytes")
    assert said(parse('plan 1\nmodel "m"\n' + text.format(2048))) == []


def test_a_card_without_a_budget_is_not_left_empty():
    text = "device cuda:0 memory 0B\ndevice cpu memory 1MiB\nmodule a : Linear 2KiB\nplace . on cpu\n"
    assert said(parse('plan 1\nmodel "m"\n' + text)) == []


@pytest.mark.parametrize(
    ("room", "codes"), [(2048, ["streaming-buffer", "buffers-without-room"]), (3072, [])]
)
def test_buffers_of_streamed_units_need_room_on_an_accelerator(room, codes):
    text = (
        f'plan 1\nmodel "m"\ndevice cuda:0 memory {room}B\ndevice cpu memory 1MiB\n'
        "module a : Linear 2KiB\nmodule b : Norm\nbuffer b.table : uint8[1024] 1KiB\n"
        "place a on cuda:0\nplace b on cpu run on cuda:0\n"
    )
    plan = AccountMemory().run(parse(text), Diagnostics())
    assert [d.code for d in said(plan)] == codes
    assert [d.code for d in said(plan, offload_buffers=True)] == codes[:-1]


def test_an_oversized_tree_is_refused_before_it_fills_the_memory(monkeypatch):
    monkeypatch.setattr("compile_plan.compiler.sources.live.MAX_MODULES", 1000)
    shared = nn.Linear(1, 1, device="meta")
    for _ in range(12):
        level = nn.Module()
        level.a = level.b = shared
        shared = level
    with pytest.raises(PlanError) as caught:
        lower_model(shared)
    assert caught.value.diagnostics[0].code == "oversized-model"
    assert MAX_MODULES > 1_000_000


class Wrapper(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.module = inner


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({"B", "A"}, ("A", "B")),
        (["B", "A"], ("A", "B")),
        (("A",), ("A",)),
        ("Block", ("Block",)),
        (None, ()),
        ([], ()),
        (lambda: ["A"], ()),
    ],
)
def test_no_split_classes_however_they_are_kept_and_wrapped(own, expected):
    model = nn.Linear(1, 1)
    model._no_split_modules = own
    assert no_split_classes(model) == expected
    assert no_split_classes(Wrapper(Wrapper(model))) == expected


@pytest.mark.parametrize("classes", ["Block", ["Block"], {"Block"}, ("Block",)])
def test_no_split_classes_may_be_given_in_any_collection(classes):
    block = type("Block", (nn.Sequential,), {})
    model = nn.Sequential(*(block(*(nn.Linear(256, 1, bias=False) for _ in range(2))) for _ in range(3)))
    budgets = {0: 3 * 1024, 1: 5 * 1024}
    plan = compile_model(model, max_memory=budgets, no_split_module_classes=classes)
    assert where(plan) == {"0": "cuda:0", "1": "cuda:1", "2": "cuda:1"}


class Config:
    tie_word_embeddings = True


def test_a_model_whose_config_asks_for_ties_it_does_not_have_is_told():
    model = nn.Module()
    model.embed, model.head = nn.Embedding(4, 2), nn.Linear(2, 4, bias=False)
    model.config, model.get_output_embeddings = Config(), lambda: model.head
    assert untied(model, lower_model(model)).code == "model-not-tied"
    model.head.weight = model.embed.weight
    assert untied(model, lower_model(model)) is None

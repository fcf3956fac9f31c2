from __future__ import annotations

from dataclasses import replace

from compile_plan.compiler.answers.diff import Move, NamedChange, WrittenPlace, diff_plans, diff_text
from compile_plan.ir import Account, Atomic, Device, Model, Never, Plan, Reserve, Split, TieGroup, Unit
from planfile_strategies import tree_of

TREE = tree_of({f"h.{i}.{n}.weight": 512 for i in range(12) for n in ("a", "b")} | {"head.weight": 100})
GPU, CPU = WrittenPlace("cuda:0", "cuda:0"), WrittenPlace("cpu", "cpu")


def plan_with(first_on_cpu: int, **changes) -> Plan:
    units = [Unit(f"h.{i}", *(("cpu",) * 2 if i >= first_on_cpu else ("cuda:0",) * 2)) for i in range(12)]
    devices = (Device("cuda:0", 2**30), Device("cpu", None))
    plan = Plan(Model("m"), devices, units=(*units, Unit("head", "cuda:0", "cuda:0")), tree=TREE)
    return replace(plan, **changes)


def test_equal_places_do_not_differ_however_the_model_is_cut():
    coarse = plan_with(12, units=(Unit("", "cuda:0", "cuda:0"),))
    assert not diff_plans(plan_with(12), coarse)
    assert diff_text(diff_plans(coarse, plan_with(12))) == "the plans are equal\n"


def test_moves_are_the_largest_modules_that_moved_whole():
    diff = diff_plans(plan_with(6), plan_with(9))
    assert diff.moves == tuple(Move(f"h.{i}", CPU, GPU, 1024) for i in (6, 7, 8))
    assert diff_text(diff) == "~ place h.{6..8}: cpu -> cuda:0  # 3 x 1.0KiB\n  3.0KiB moved\n"


def test_a_single_tensor_and_a_whole_model_move():
    one = plan_with(12, units=(*plan_with(12).units, Unit("h.3.a.weight", "cpu", "cpu")))
    assert diff_plans(plan_with(12), one).moves == (Move("h.3.a", GPU, CPU, 512),)
    whole = plan_with(12, units=(Unit("", "cpu", "cuda:0"),))
    text = diff_text(diff_plans(plan_with(12), whole))
    assert text.startswith("~ place the whole model: cuda:0 -> cpu run on cuda:0  # 12.1KiB\n")


def test_one_tree_is_enough_and_none_compares_units():
    before, after = plan_with(6), plan_with(9)
    assert diff_plans(before, replace(after, tree=None)).moves == diff_plans(before, after).moves
    assert diff_plans(replace(before, tree=None), after).moves == diff_plans(before, after).moves
    bare = diff_plans(replace(before, tree=None), replace(after, tree=None))
    assert bare.moves == tuple(Move(f"h.{i}", CPU, GPU) for i in (6, 7, 8))
    assert diff_text(bare) == "~ place h.{6..8}: cpu -> cuda:0\n"


def test_without_a_tree_a_unit_is_compared_with_the_nearest_above():
    before = plan_with(12, tree=None, units=(Unit("", "cuda:0", "cuda:0"),))
    after = plan_with(12, tree=None, units=(Unit("", "cuda:0", "cuda:0"), Unit("h.1", "cpu", "cpu")))
    assert diff_plans(before, after).moves == (Move("h.1", GPU, CPU),)


def test_unplaced_units_are_nowhere():
    after = plan_with(12, units=tuple(replace(u, store=None, run=None) for u in plan_with(12).units))
    assert "cuda:0 -> nowhere" in diff_text(diff_plans(plan_with(12), after))


def test_devices_options_and_rules():
    before = plan_with(12, options=(("strategy", "auto"), ("dtype", "x")), constraints=(Atomic("h.*"),))
    after = plan_with(
        12,
        devices=(Device("cuda:0", 2**31, 4096, pool="p"), Device("disk", None, at="off/")),
        options=(("strategy", "balanced"),),
        constraints=(Split("h"), Never("head", "cpu")),
        reserves=(Reserve(1024, "cuda:0", "kv cache"),),
        ties=(TieGroup(("a", "b")),),
    )
    assert diff_text(diff_plans(before, after)).splitlines() == [
        "~ device cuda:0: 1GiB -> 2GiB, margin 4KiB, pool p",
        "- device cpu no limit",
        "+ device disk no limit, at off/",
        "~ option strategy: auto -> balanced",
        "- option dtype x",
        "- rule atomic h.*",
        "+ rule split h",
        "+ rule never head on cpu",
        "+ rule tie a = b",
        '+ rule reserve 1KiB on cuda:0 for "kv cache"',
    ]


def test_ledgers_differ_by_line():
    before = plan_with(12, ledger=(Account("cuda:0", 2048, 10), Account("cpu", 7)))
    after = plan_with(12, ledger=(Account("cuda:0", 3072, 10), Account("cpu", 7)))
    assert diff_plans(before, after).ledger == (
        NamedChange("cuda:0 weights", "2048", "3072"),
        NamedChange("cuda:0 total", "2058", "3082"),
    )
    assert "~ ledger cuda:0 weights: 2.0KiB -> 3.0KiB (+1.0KiB)\n" in diff_text(diff_plans(before, after))
    assert "(-1.0KiB)" in diff_text(diff_plans(after, before))


def test_another_model_names_its_tensors_as_ranges():
    grown = tree_of({f"h.{i}.{n}.weight": 512 for i in range(14) for n in ("a", "b")} | {"head.weight": 200})
    after = plan_with(12, tree=grown, units=(Unit("", "cuda:0", "cuda:0"),), model=Model("m", grown.digest))
    diff = diff_plans(plan_with(12, model=Model("m", TREE.digest)), after)
    assert diff.moves == ()
    assert diff_text(diff).splitlines() == [
        f"~ model digest: {TREE.digest} -> {grown.digest}",
        "~ tensor head.weight: uint8[100] -> uint8[200]",
        "+ tensor h.{12,13}.{a,b}.weight uint8[512]",
    ]

"""The flat tree reads like the nested one, and every law is seen to be broken when it is."""

from dataclasses import replace

import pytest
from compile_plan.ir import (
    Account,
    Cache,
    Device,
    Diagnostics,
    Link,
    Model,
    ModuleTree,
    Plan,
    PlanError,
    Reserve,
    Role,
    TieGroup,
    Unit,
    group_storages,
    unit_of_tensors,
    verify,
)

# root(scale) / a(w, b) / list / list.0(w) list.1(w); list.1.w is tied to a.w
TREE = ModuleTree(
    names=("", "a", "list", "0", "1"),
    classes=("Net", "Linear", "ModuleList", "Linear", "Linear"),
    parents=(-1, 0, 0, 2, 2),
    ends=(5, 2, 5, 4, 5),
    first_tensors=(0, 1, 3, 3, 4, 5),
    tensor_names=("scale", "w", "b", "w", "w"),
    shapes=((1,), (4, 4), (4,), (4, 4), (4, 4)),
    dtypes=("float32",) * 5,
    roles=(Role.PARAMETER, Role.PARAMETER, Role.BUFFER, Role.PARAMETER, Role.PARAMETER),
    storages=group_storages([7, 8, 9, 10, 8]),
    nbytes=(4, 64, 16, 64, 0),
)
PLAN = Plan(
    model=Model("net", TREE.digest),
    devices=(Device("cuda:0", 100), Device("cpu", 200)),
    ties=(TieGroup(("a.w", "list.1.w")),),
    units=(
        Unit("scale", "cuda:0", "cuda:0"),
        Unit("a", "cpu", "cuda:0"),
        Unit("list.0", "cuda:0", "cuda:0"),
        Unit("list.1", "cpu", "cuda:0"),
    ),
    tree=TREE,
)


def test_the_flat_tree_knows_paths_children_and_bytes():
    assert TREE.paths == ("", "a", "list", "list.0", "list.1")
    assert TREE.tensor_paths == ("scale", "a.w", "a.b", "list.0.w", "list.1.w")
    assert TREE.children(0) == [1, 2]
    assert TREE.children(2) == [3, 4]
    assert [TREE.subtree_bytes(i) for i in range(5)] == [148, 80, 64, 64, 0]
    assert list(TREE.covered("list")) == [3, 4]
    assert list(TREE.covered("a.b")) == [2]
    assert len(TREE.covered("nothing")) == 0
    assert TREE.storages == (0, 1, 2, 3, 1)


def test_the_digest_sees_names_shapes_dtypes_and_ties_but_not_sizes():
    assert replace(TREE, nbytes=None).digest == TREE.digest
    changed = [
        replace(TREE, tensor_names=("scale", "w", "bias", "w", "w")),
        replace(TREE, shapes=((2,), *TREE.shapes[1:])),
        replace(TREE, dtypes=("bfloat16", *TREE.dtypes[1:])),
        replace(TREE, storages=(0, 1, 2, 3, 4)),
        replace(TREE, roles=(Role.TRANSIENT, *TREE.roles[1:])),
    ]
    assert len({TREE.digest, *(tree.digest for tree in changed)}) == 6


def test_the_deepest_unit_wins_and_the_later_among_equals():
    units = (
        Unit("list.0", "cpu", "cpu"),
        Unit("", "cpu", "cpu"),
        Unit("a", "cpu", "cpu"),
        Unit("a", "cpu", "cpu"),
    )
    assert unit_of_tensors(TREE, units) == [1, 3, 3, 0, 1]


def test_a_tensor_beats_the_module_that_holds_only_it():
    units = (Unit("list.0.w", "cpu", "cpu"), Unit("list.0", "cuda:0", "cuda:0"))
    assert unit_of_tensors(TREE, units)[3] == 0


def test_a_lawful_plan_breaks_no_law():
    assert verify(PLAN) == ()


@pytest.mark.parametrize(
    ("code", "broken"),
    [
        ("duplicate-device", replace(PLAN, devices=(*PLAN.devices, Device("cpu", 1)))),
        ("undeclared-device", replace(PLAN, reserves=(Reserve(1, "cuda:9"),))),
        ("undeclared-device", replace(PLAN, units=(*PLAN.units[:3], Unit("list.1", "cpu", "cuda:3")))),
        ("invalid-placement", replace(PLAN, units=(*PLAN.units[:3], Unit("list.1", "cpu", None)))),
        ("tensor-without-place", replace(PLAN, units=PLAN.units[:3])),
        ("tie-across-devices", replace(PLAN, units=(*PLAN.units[:3], Unit("list.1", "cuda:0", "cuda:0")))),
        ("undeclared-device", replace(PLAN, caches=(Cache(1, ("b",), "cuda:9"),))),
        ("undeclared-device", replace(PLAN, links=(Link("cuda:0", "node1", 10**9),))),
        ("invalid-placement", replace(PLAN, links=(Link("cpu", "cpu", 10**9),))),
        ("invalid-placement", replace(PLAN, units=(replace(PLAN.units[0], by_rows=True), *PLAN.units[1:]))),
        ("budget-exceeded", replace(PLAN, caches=(Cache(60, ("b",), "cuda:0"), Cache(41, ("c",), "cuda:0")))),
        ("budget-exceeded", replace(PLAN, ledger=(Account("cuda:0", weights=68, row_cache=33),))),
        ("budget-exceeded", replace(PLAN, ledger=(Account("cuda:0", weights=68, streaming=33),))),
        (
            "budget-exceeded",
            replace(
                PLAN,
                devices=(
                    Device("cuda:0", 100, pool="soc", pool_memory=120),
                    Device("cpu", 100, pool="soc", pool_memory=120),
                ),
                ledger=(Account("cuda:0", weights=70), Account("cpu", weights=60)),
            ),
        ),
    ],
)
def test_each_law_names_what_breaks_it(code, broken):
    assert [finding.code for finding in verify(broken)] == [code]


def test_running_on_a_disk_is_impossible():
    disk = replace(PLAN, devices=(*PLAN.devices, Device("disk", None)))
    units = (*PLAN.units[:2], Unit("list.0", "disk", "disk"), PLAN.units[3])
    assert [finding.code for finding in verify(replace(disk, units=units))] == ["invalid-placement"]


def test_plans_are_equal_by_what_they_mean():
    explained = replace(PLAN, tree=None, ledger=(Account("cpu", weights=1),))
    assert explained == PLAN
    assert len({explained, PLAN}) == 1
    assert replace(PLAN, units=PLAN.units[:3]) != PLAN


def test_diagnostics_are_collected_once_and_raised_together():
    found = Diagnostics(verify(replace(PLAN, units=PLAN.units[:3])))
    found.extend(tuple(found))
    assert len(found) == 1
    with pytest.raises(PlanError) as caught:
        found.raise_errors()
    assert caught.value.diagnostics == tuple(found)
    assert "no place" in str(caught.value)

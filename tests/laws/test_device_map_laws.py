"""Laws of device_maps: each tensor under one key, no key more than needed, and all readers agree."""

from __future__ import annotations

from compile_plan.backends import to_device_map
from compile_plan.ir import is_within, unit_of_tensors
from hypothesis import given
from planfile_strategies import placed_plans

SPELLED = {"cuda:0": 0, "cuda:1": 1}


def stores(plan):
    """Each tensor's device in the spelling of a device_map."""
    owners = unit_of_tensors(plan.tree, plan.units)
    found = [plan.units[owner].store for owner in owners]
    return dict(zip(plan.tree.tensor_paths, (SPELLED.get(store, store) for store in found), strict=True))


@given(placed_plans())
def test_each_tensor_is_under_exactly_one_key(plan):
    device_map = to_device_map(plan)
    for tensor, store in stores(plan).items():
        assert [device_map[key] for key in device_map if is_within(tensor, key)] == [store]


@given(placed_plans())
def test_no_key_can_be_replaced_by_the_module_above_it(plan):
    device_map, wanted = to_device_map(plan), stores(plan)
    for key in filter(None, device_map):
        above = key.rpartition(".")[0]
        assert len({store for tensor, store in wanted.items() if is_within(tensor, above)}) > 1


@given(placed_plans())
def test_a_key_that_begins_like_a_sibling_never_decides_for_it(plan):
    """``h.1`` also begins ``h.10``: whoever compares letters must find the longer key first."""
    device_map = to_device_map(plan)
    for tensor, store in stores(plan).items():
        longest = max((key for key in device_map if tensor.startswith(key)), key=len)
        assert device_map[longest] == store

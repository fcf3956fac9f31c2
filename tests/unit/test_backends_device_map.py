from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from compile_plan.backends import device_map_diagnostics, to_device_map
from compile_plan.backends.device_map import emit_device_map
from compile_plan.backends.device_map_file import read_device_map
from compile_plan.ir import Atomic, Device, Model, ModuleTree, Plan, PlanError, Unit
from hypothesis import given
from hypothesis import strategies as st
from planfile_strategies import tree_of


def plan_of(tree: ModuleTree | None, *units: tuple[str, ...]) -> Plan:
    names = dict.fromkeys(device for _, *devices in units for device in devices)
    return Plan(
        Model("m"),
        tuple(Device(name, None) for name in names),
        units=tuple(Unit(path, devices[0], devices[-1]) for path, *devices in units),
        tree=tree,
    )


LAYERS = tree_of(
    {f"model.layers.{i}.{n}.weight": 4 for i in range(12) for n in ("a", "b")} | {"lm_head.weight": 8}
)


def nearest_key(device_map, tensor):
    """How accelerate finds a tensor's device."""
    while tensor and tensor not in device_map:
        tensor = tensor.rpartition(".")[0]
    return device_map[tensor]


def deepest_match(device_map, tensor):
    """How transformers finds a tensor's device: keys as regular expressions, deepest and longest first."""
    ordered = sorted(device_map, key=lambda key: (key.count("."), len(key)), reverse=True)
    match = re.match("|".join(f"({key})" for key in ordered), tensor)
    return device_map[match.group()]


ALIKE = ["a", "ab", "a1", "a10", "word", "word_norm"]
PLACED_ALIKE = st.dictionaries(
    st.lists(st.sampled_from(ALIKE), min_size=1, max_size=3).map(".".join),
    st.sampled_from(["cuda:0", "cuda:1", "cpu", "disk"]),
    min_size=1,
)


@given(PLACED_ALIKE)
def test_names_that_begin_with_a_siblings_name_are_read_as_they_are_written(places):
    tensors = {f"{path}.weight": place for path, place in places.items()}
    plan = plan_of(tree_of(dict.fromkeys(tensors, 4)), *tensors.items())
    device_map = to_device_map(plan)
    for tensor, place in tensors.items():
        wanted = int(place[-1]) if place.startswith("cuda") else place
        assert nearest_key(device_map, tensor) == deepest_match(device_map, tensor) == wanted


def test_one_device_is_one_key():
    plan = plan_of(LAYERS, ("model", "cuda:3"), ("lm_head", "cuda:3"))
    assert to_device_map(plan) == {"": 3}


def test_keys_are_the_largest_modules_on_one_device():
    units = [(f"model.layers.{i}", "cuda:0" if i < 11 else "cpu", "cuda:0") for i in range(12)]
    units += [("lm_head", "cuda:0")]
    expected = {f"model.layers.{i}": 0 for i in range(11)} | {"model.layers.11": "cpu", "lm_head": 0}
    assert to_device_map(plan_of(LAYERS, *units)) == expected


@pytest.mark.parametrize(
    "outer", [[("", "cpu", "cpu")], [("model", "cpu", "cpu"), ("lm_head", "cpu", "cpu")]], ids=["H1", "H2"]
)
def test_nested_units_are_flat_in_the_map_and_both_libraries_read_what_was_written(outer):
    plan = plan_of(LAYERS, *outer, ("model.layers.1", "disk", "cpu"))
    device_map = to_device_map(plan)
    for tensor in LAYERS.tensor_paths:
        wanted = "disk" if tensor.startswith("model.layers.1.") else "cpu"
        assert nearest_key(device_map, tensor) == wanted
        assert deepest_match(device_map, tensor) == wanted


def test_transformers_own_lookup_agrees():
    expand = pytest.importorskip("transformers.integrations.accelerate").expand_device_map
    plan = plan_of(LAYERS, ("", "cpu", "cpu"), ("model.layers.1", "disk", "cpu"), ("model.layers.1.a", "cpu"))
    found = expand(to_device_map(plan), list(LAYERS.tensor_paths))
    assert [path for path, device in found.items() if device == "disk"] == ["model.layers.1.b.weight"]


def test_direct_tensors_of_an_opened_module_are_keys():
    tree = tree_of({"scale": 4, "block.scale": 4, "block.linear.weight": 8})
    plan = plan_of(tree, ("scale", "cpu"), ("block.scale", "cuda:1"), ("block.linear", "cuda:0"))
    assert to_device_map(plan) == {"scale": "cpu", "block.scale": 1, "block.linear": 0}


def test_a_module_without_tensors_is_a_key_only_where_a_unit_names_it_apart():
    tree = tree_of({"a.weight": 4, "b.weight": 4}, modules=("drop",))
    assert to_device_map(plan_of(tree, ("a", "cuda:0"), ("b", "cuda:0"))) == {"": 0}
    apart = plan_of(tree, ("a", "cuda:0"), ("b", "cuda:0"), ("drop", "cuda:1"))
    assert to_device_map(apart) == {"drop": 1, "a": 0, "b": 0}


def test_without_a_module_table_the_units_are_the_keys():
    plan = plan_of(None, ("a", "cuda:0"), ("b", "xpu:1"), ("c", "mps"), ("d", "node1/cpu"))
    with pytest.raises(PlanError, match="one machine"):
        to_device_map(plan)
    assert to_device_map(plan_of(None, ("a", "node1/cuda:4"), ("b", "node1/disk"))) == {"a": 4, "b": "disk"}
    assert to_device_map(plan_of(None, ("b", "xpu:1"), ("c", "mps"))) == {"b": "xpu:1", "c": "mps"}


@pytest.mark.parametrize(
    ("plan", "code"),
    [
        (Plan(Model("m"), units=(Unit("a"),)), "unplaced-unit"),
        (plan_of(None, ("a.*", "cpu")), "device-map-needs-modules"),
        (plan_of(LAYERS, ("model", "cpu")), "tensor-without-place"),
    ],
)
def test_plans_no_map_can_hold_are_refused(plan, code):
    with pytest.raises(PlanError) as caught:
        to_device_map(plan)
    assert [d.code for d in caught.value.diagnostics] == [code]


@pytest.mark.parametrize(
    ("plan", "part"),
    [
        (plan_of(None, ("a", "cuda:0"), ("b", "cpu", "cpu")), "`b` runs on `cpu`"),
        (plan_of(None, ("a", "cuda:0"), ("b", "cuda:1"), ("c", "cpu", "cuda:1")), "it would be `cuda:0`"),
        (plan_of(None, ("", "cpu"), ("model.1", "disk", "cpu")), "lies within the whole model"),
        (plan_of(None, ("a+b", "cpu")), "misread `a+b`"),
        (
            Plan(Model("m"), (Device("disk", None, at="here/"),), units=(Unit("", "disk", "cpu"),)),
            "is the folder `here/`",
        ),
    ],
)
def test_what_the_map_cannot_say_is_a_warning(plan, part):
    (found,) = device_map_diagnostics(plan)
    assert found.code == "device-map-loses"
    assert part in found.message


def test_a_visited_part_is_a_warning_and_a_layer_elsewhere_is_none():
    """What a whole layer calls elsewhere meets the rest of it; what is between layers is moved on."""
    rules = (Atomic("layers.0"), Atomic("layers.1"))
    tree = tree_of({f"layers.{i}.{part}.weight": 4 for i in range(2) for part in ("attn", "mlp")})
    nested = plan_of(tree, ("", "cuda:0"), ("layers.1", "cuda:1"))
    visited = plan_of(tree, ("layers.0", "cuda:0"), ("layers.0.mlp", "cuda:1"), ("layers.1", "cuda:1"))
    assert device_map_diagnostics(replace(nested, constraints=rules)) == ()
    (found,) = device_map_diagnostics(replace(visited, constraints=rules))
    assert found.code == "device-map-loses"
    assert found.message == "`layers.0.mlp` lies apart from the module that calls it"


def test_a_plan_the_map_says_whole_has_no_diagnostic():
    plan = plan_of(LAYERS, ("model", "cuda:0"), ("lm_head", "cpu", "cuda:0"))
    assert device_map_diagnostics(plan) == ()


def test_reading_names_devices_and_gives_offloaded_modules_accelerates_run_device():
    plan = read_device_map(b'{"a": 1, "b": "0", "c": "cpu", "d": "disk", "e": "xpu:2"}', "maps/gpt2.json")
    assert plan.model.name == "gpt2"
    assert [device.name for device in plan.devices] == ["cuda:0", "cuda:1", "xpu:2", "cpu", "disk"]
    assert [(u.store, u.run) for u in plan.units[2:4]] == [("cpu", "cuda:0"), ("disk", "cuda:0")]


def test_a_map_of_disk_alone_runs_on_the_cpu():
    plan = read_device_map(b'{"": "disk"}', "x.json")
    assert (plan.units[0].run, [device.name for device in plan.devices]) == ("cpu", ["cpu", "disk"])


def test_a_map_may_be_wrapped_with_the_name_of_its_model():
    plan = read_device_map(b'{"model": "gpt2", "device_map": {"": 0}}', "x.json")
    assert (plan.model.name, plan.units[0].store) == ("gpt2", "cuda:0")


@pytest.mark.parametrize("units", [[("a", "cuda:0"), ("b.c", "cpu", "cuda:0")], [("", "mps")]])
def test_a_written_map_reads_back(units):
    plan = plan_of(None, *units)
    again = read_device_map(emit_device_map(plan), "m.json")
    assert again.units == plan.units


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (
            '{"a": "gpu7", "b": "gpu7", "c": -1}',
            ['"gpu7" is no device, it stands for `a`, `b`', "-1 is no device"],
        ),
        ('{"a": 0, "a": 1}', ["`a` stands twice"]),
        ('{"a": true}', ["true is no device"]),
        ('{"a": {"b": 1}}', ["a list or object is no device"]),
        ('{"a": "meta"}', ['"meta" is no device']),
        ("[]", ["it holds something else"]),
        ("{}", ["it holds an empty object"]),
        ("{", ["is not JSON"]),
        ("[" * 100_000, ["is not JSON"]),
        ("9" * 10_000, ["is not JSON"]),
    ],
)
def test_wrong_maps_are_reported_whole(text, parts):
    with pytest.raises(PlanError) as caught:
        read_device_map(text.encode(), "x.json")
    messages = [d.message for d in caught.value.diagnostics]
    assert len(messages) == len(parts)
    assert all(part in message for part, message in zip(parts, messages, strict=True))


def test_gpu7_is_told_how_to_be_written():
    with pytest.raises(PlanError) as caught:
        read_device_map(b'{"a": "gpu7"}', "x.json")
    assert caught.value.diagnostics[0].help == 'did you mean `"cuda:7"`?'


def test_odd_names_survive_json():
    plan = plan_of(None, ('"<>\\', "cpu"), ("\ud800é", "cpu"))
    assert list(json.loads(emit_device_map(plan))) == ['"<>\\', "\ud800é"]

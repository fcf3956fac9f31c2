"""Budgets as people write them: every spelling of a device and a size, and every mistake."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from compile_plan.compiler.machine.budgets import canonical_name, devices_from, parse_memory_option
from compile_plan.ir import Diagnostics

GIB = 1 << 30


def budgets(max_memory):
    diagnostics = Diagnostics()
    devices = devices_from(max_memory, diagnostics)
    return {device.name: device.memory for device in devices}, list(diagnostics)


def only_error(max_memory):
    _, found = budgets(max_memory)
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (0, "cuda:0"),
        ("0", "cuda:0"),
        (np.int64(3), "cuda:3"),
        ("cuda", "cuda:0"),
        ("cuda:1", "cuda:1"),
        ("CUDA:1", "cuda:1"),
        (" cpu ", "cpu"),
        ("cpu:0", "cpu"),
        ("mps:0", "mps"),
        ("Disk", "disk"),
        ("xpu:1", "xpu:1"),
        ("node1/cuda:0", "node1/cuda:0"),
        ("Node1/CPU", "Node1/cpu"),
        (torch.device("cuda:2"), "cuda:2"),
        (torch.device("cpu"), "cpu"),
    ],
)
def test_every_spelling_of_a_device_has_one_name(key, name):
    assert canonical_name(key) == name


@pytest.mark.parametrize(
    "key", [-1, True, 1_000_000, "cpu:1", "meta", "gpu7", "", "cuda:", "cuda:01", "a b", None, ("cpu",), 1.0]
)
def test_nonsense_is_no_device(key):
    assert canonical_name(key) is None


@pytest.mark.parametrize(
    ("value", "nbytes"),
    [
        (0, 0),
        (5, 5),
        (10.0, 10),
        (np.float32(4), 4),
        (np.int64(7), 7),
        ("10GiB", 10 * GIB),
        ("10gb", 10**10),
        ("10 GB", 10**10),
        ("10G", 10 * GIB),
        ("1.5GiB", 3 * GIB // 2),
        ("123", 123),
        (2**63 - 1, 2**63 - 1),
    ],
)
def test_sizes_are_bytes(value, nbytes):
    assert budgets({"cpu": value, 0: 1}) == ({"cuda:0": 1, "cpu": nbytes}, [])


@pytest.mark.parametrize(
    "value",
    [
        -1,
        -1.0,
        1.5,
        float("nan"),
        float("inf"),
        True,
        np.bool_(1),
        2**63,
        10**400,
        None,
        [],
        "",
        "-1GiB",
        "10 gigs",
        "80%",
        "1e9",
        "10Gib/s",
    ],
)
def test_what_is_no_size_is_named(value):
    finding = only_error({0: value, "cpu": 5})
    assert finding.code == "invalid-budget"
    assert "`cuda:0`" in finding.message
    assert finding.help


@pytest.mark.parametrize(
    ("value", "meant"),
    [("1Gi", "`1GiB`"), ("10 gibs", "`10GiB`"), (1.5, "`1`")],
)
def test_a_misspelled_size_gets_a_suggestion(value, meant):
    assert meant in (only_error({0: value, "cpu": 5}).help or "")


def test_a_huge_value_is_shown_short():
    for value in ("9" * 5000, 10**400, 10**5000, [5] * 1000):
        assert len(only_error({0: value, "cpu": 1}).message) < 200
    assert len(only_error({10**5000: 1, "cpu": 1}).message) < 200


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("gpu7", "cuda:7"),
        ("gpu", "cuda:0"),
        ("cdua:1", "cuda:1"),
        ("gpu:3", "cuda:3"),
        ("dsk", "disk"),
        ("n1/gpu:2", "n1/cuda:2"),
    ],
)
def test_an_unknown_device_gets_a_suggestion(key, meant):
    finding = only_error({key: 1, "cpu": 5})
    assert finding.code == "unknown-device-name"
    assert finding.help == f"did you mean `{meant}`?"


def test_a_key_that_resembles_nothing_gets_the_forms():
    assert "`node1/cuda:0`" in (only_error({"?!": 1, "cpu": 5}).help or "")


def test_two_keys_for_one_device_are_an_error():
    finding = only_error({0: 1, "cuda:0": 2})
    assert finding.code == "duplicate-budget"
    assert finding.message == "`0` and `cuda:0` are both `cuda:0`"


def test_all_mistakes_are_reported_at_once():
    _, found = budgets({"gpu7": 1, 0: "x", "0": 3})
    assert [d.code for d in found] == ["unknown-device-name", "invalid-budget", "duplicate-budget"]


def test_the_mapping_is_not_changed():
    given = {0: "10GiB", "cpu": 5.0}
    budgets(given)
    assert given == {0: "10GiB", "cpu": 5.0}
    assert list(given) == [0, "cpu"]


def test_the_order_of_keys_does_not_matter():
    keys = ["disk", "cpu", "mps", "xpu:0", 10, 2, "node10/cuda:0", "node2/cuda:1", "node2/cuda:0"]
    expected = [
        "cuda:2",
        "cuda:10",
        "xpu:0",
        "node2/cuda:0",
        "node2/cuda:1",
        "node10/cuda:0",
        "mps",
        "cpu",
        "disk",
    ]
    for order in (keys, keys[::-1], *itertools.islice(itertools.permutations(keys), 0, 5000, 700)):
        assert list(budgets(dict.fromkeys(order, 1))[0]) == expected


def test_a_device_that_is_not_listed_is_not_used():
    assert list(budgets({0: 300, 1: 300})[0]) == ["cuda:0", "cuda:1"]


def test_a_zero_budget_keeps_the_device_and_the_plan_possible():
    assert budgets({0: 0, "cpu": 5}) == ({"cuda:0": 0, "cpu": 5}, [])


@pytest.mark.parametrize("given", [{}, {"disk": 0}, {0: 0, "cpu": 0}, {"disk": "1TB"}, {"disk": None}])
def test_nothing_to_compute_on_is_a_clear_error(given):
    finding = only_error(given)
    assert finding.code == "no-usable-device"
    assert finding.help


@pytest.mark.parametrize(("value", "memory"), [(None, None), ("unlimited", None), ("1TB", 10**12), (0, 0)])
def test_a_disk_is_unlimited_unless_its_budget_is_given(value, memory):
    assert budgets({"disk": value, "cpu": 5})[0]["disk"] == memory


def test_only_a_disk_can_be_unlimited():
    assert only_error({"cpu": "unlimited"}).code == "invalid-budget"


def test_given_budgets_say_so():
    assert {device.origin for device in devices_from({0: 1, "cpu": 2}, Diagnostics())} == {"given"}


def test_the_option_is_read_as_it_is_written():
    diagnostics = Diagnostics()
    found = parse_memory_option("1=10GiB, cuda:0=1gb,cpu=64GiB,disk", diagnostics)
    assert found == {"cuda:1": 10 * GIB, "cuda:0": 10**9, "cpu": 64 * GIB, "disk": "unlimited"}
    devices = devices_from(found, diagnostics)
    assert [(d.name, d.memory) for d in devices][-1] == ("disk", None)
    assert not list(diagnostics)


@pytest.mark.parametrize(
    ("text", "code", "marked"),
    [
        ("cuda:0:10GiB", "malformed-memory-option", "cuda:0:10GiB"),
        ("cpu=1,cuda:0", "malformed-memory-option", "cuda:0"),
        ("cpu=1,gpu0=5", "unknown-device-name", "gpu0"),
        ("cpu=1,0=5x", "invalid-budget", "5x"),
        ("cpu=", "invalid-budget", ""),
        ("cpu=unlimited", "invalid-budget", "unlimited"),
        ("0=1,cuda:0=2", "duplicate-budget", "cuda:0"),
    ],
)
def test_a_mistake_in_the_option_is_marked(text, code, marked):
    diagnostics = Diagnostics()
    parse_memory_option(text, diagnostics)
    (finding,) = diagnostics
    assert finding.code == code
    span = finding.at.span
    assert span.source.text[span.start : span.end] == marked


@pytest.mark.parametrize("text", ["", ",", " , "])
def test_an_empty_option_is_an_error(text):
    diagnostics = Diagnostics()
    assert parse_memory_option(text, diagnostics) == {}
    assert [d.code for d in diagnostics] == ["malformed-memory-option"]


@pytest.mark.parametrize(
    ("budgets", "pools"),
    [
        ({"mps": "40GiB", "cpu": "100GiB"}, {"mps": ("host", 100), "cpu": ("host", 100)}),
        ({"cpu": "16GiB", "mps": "48GiB"}, {"mps": ("host", 48), "cpu": ("host", 48)}),
        ({"a/mps": "4GiB", "a/cpu": "6GiB", "cpu": "9GiB"}, {"a/mps": ("a", 6), "a/cpu": ("a", 6)}),
        ({"mps": "40GiB"}, {}),
        ({"cuda:0": "40GiB", "cpu": "100GiB"}, {}),
    ],
)
def test_f34_mps_and_the_cpu_of_a_host_are_one_memory(budgets, pools):
    devices = devices_from(budgets, Diagnostics())
    shared = {each.name: (each.pool, each.pool_memory // 2**30) for each in devices if each.pool}
    assert shared == pools

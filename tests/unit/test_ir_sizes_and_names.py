"""Sizes are bytes, always; names of devices are checked once."""

import pytest
from compile_plan.ir import (
    exact_size,
    human_size,
    is_accelerator,
    is_device_name,
    is_within,
    near_device_name,
    parse_size,
    read_device_name,
    size_up,
)
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("10gb", 10**10),
        ("10 GB", 10**10),
        ("10GB", 10**10),
        ("10G", 10 * 2**30),
        ("10GiB", 10 * 2**30),
        ("1.5GiB", 3 * 2**29),
        ("512M", 2**29),
        ("0", 0),
        ("7", 7),
        ("7B", 7),
        (".5KiB", 512),
        ("2tib", 2**41),
    ],
)
def test_a_size_is_bytes_whatever_its_case(text, nbytes):
    assert parse_size(text) == nbytes


@pytest.mark.parametrize(
    "text",
    [
        "",
        "GiB",
        "-1GiB",
        "1e3",
        "nan",
        "inf",
        "1GiBB",
        "1IB",
        "1 0GB",
        "9" * 30 + "P",
        "1Gi",
        "10gbit",
        "1_000",
    ],
)
def test_what_is_not_a_size_is_none(text):
    assert parse_size(text) is None


@given(st.integers(0, 2**63 - 1))
def test_an_exact_size_reads_back_as_the_same_number(nbytes):
    assert parse_size(exact_size(nbytes)) == nbytes


@given(st.integers(0, 2**60))
def test_a_hint_is_never_too_small_and_at_most_a_tenth_of_its_unit_too_large(nbytes):
    suggested = parse_size(size_up(nbytes))
    assert suggested is not None
    assert nbytes <= suggested <= nbytes * 1.1 + 1


def test_sizes_for_people_have_one_decimal():
    assert [human_size(n) for n in (0, 1023, 1024, 154389504, -2048)] == [
        "0B",
        "1023B",
        "1.0KiB",
        "147.2MiB",
        "-2.0KiB",
    ]


@pytest.mark.parametrize(
    "name", ["cuda:0", "cpu", "disk", "mps", "xpu:1", "node1/cuda:3", "my-host.local/cpu"]
)
def test_device_names(name):
    assert is_device_name(name)


@pytest.mark.parametrize(
    "name", ["gpu7", "cuda:", "cuda:-1", "cuda:01", "meta", "", "CUDA:0", "a/b/cuda:0", "cuda:0 "]
)
def test_what_is_no_device_name(name):
    assert not is_device_name(name)


def test_only_the_host_and_disks_are_no_accelerators():
    assert [is_accelerator(n) for n in ("cpu", "disk", "node1/cpu", "cuda:0", "mps")] == [
        False,
        False,
        False,
        True,
        True,
    ]


def test_within_compares_names_not_letters():
    assert is_within("a.b.c", "a.b")
    assert is_within("a.b", "a.b")
    assert is_within("anything", "")
    assert not is_within("a.bc", "a.b")


@pytest.mark.parametrize(
    ("written", "meant"),
    [("0", "cuda:0"), ("cuda", "cuda:0"), ("CUDA:3", "cuda:3"), ("cpu:0", "cpu"), ("mps", "mps"),
     ("node1/cuda", "node1/cuda:0"), ("node1/cpu:0", "node1/cpu"), ("cpu:1", None), ("cuda:", None),
     ("cuda:01", None), ("meta", None), ("1234567", None), ("a/b/cuda:0", None), ("", None)],
)  # fmt: skip
def test_a_device_has_one_name_however_it_is_written(written, meant):
    assert read_device_name(written) == meant
    assert meant is None or read_device_name(meant) == meant


@pytest.mark.parametrize(
    ("wrong", "near"),
    [("gpu7", "cuda:7"), ("gpu", "cuda:0"), ("cdua:1", "cuda:1"), ("rocm:2", "cuda:2"),
     ("node1/gpu:0", "node1/cuda:0"),
     ("metal", "mps"), ("dsk", "disk"), ("kitchen", None), ("7 cards", None)],
)  # fmt: skip
def test_a_near_device_is_offered(wrong, near):
    assert near_device_name(wrong) == near

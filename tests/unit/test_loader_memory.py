"""The memory a load takes: what stays resident, and at most the largest tensor beside it."""

from __future__ import annotations

import pytest
from own_process import run_support

LARGEST, ALL, BUFFER = 24, 120, 16
SLACK = 8
"""A piece of scratch for each reader; MiB as everything here."""
RESIDENT = {
    "mapped": 0,
    "copied": ALL,
    "converted": ALL // 2,
    "disk mapped": 0,
    "disk copied": LARGEST,
    "disk converted": LARGEST // 2,
}


@pytest.fixture(scope="module", name="peaks")
def _peaks():
    """Measure in a process of its own: what else the tests hold would be counted."""
    return run_support("load_peaks.py")


@pytest.mark.parametrize("case", RESIDENT)
def test_a_load_takes_what_stays_and_one_tensor(peaks, case):
    load, _ = peaks[case]
    assert RESIDENT[case] <= load <= RESIDENT[case] + LARGEST + SLACK


@pytest.mark.parametrize("case", RESIDENT)
def test_a_forward_takes_the_streaming_buffer(peaks, case):
    _, both = peaks[case]
    assert both <= RESIDENT[case] + max(BUFFER, LARGEST) + SLACK


@pytest.mark.parametrize(("case", "merged"), [("merged", 32), ("merged and converted", 16)])
def test_merging_takes_one_merged_tensor_more(peaks, case, merged):
    resident, load = peaks[case]
    assert 96 // (32 // merged) <= resident
    assert load <= resident + merged + SLACK


def test_a_second_copy_would_be_seen(peaks):
    assert peaks["two copies"][0] > RESIDENT["copied"] + LARGEST + SLACK

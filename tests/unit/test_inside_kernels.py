"""What a card's sort has beside what comes out of it, where a trace and a sampler meet one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from compile_plan.compiler import compile_model
from compile_plan.compiler.tracing import trace_model
from compile_plan.compiler.tracing.inside import inside
from compile_plan.compiler.tracing.trace import Op

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import activation_peaks

SORT = torch.ops.aten.sort


def within(shape, *rest, dtype=torch.float32, on_host=False, **named):
    return sum(inside(SORT, (torch.empty(shape, dtype=dtype, device="meta"), *rest), named, on_host=on_host))


@pytest.mark.parametrize(
    ("rows", "words", "least", "most"),
    [
        (1, 2_000, 8, 8),  # where they lie: the places of a row
        (4, 4_096, 2, 2),
        (1, 128_000, 8 + 12, 22),  # places, and both once more
        (4, 128_000, 8 + 8 + 4 + 12, 34),  # pairs of row and place instead, numbers sorted aside
        (200, 128_000, 8 + 12, 22),
    ],
)
def test_a_sort_on_a_card_has_numbers_and_places_once_more(rows, words, least, most):
    assert least <= within((rows, words)) / (rows * words) <= most
    assert within((rows, words), on_host=True) == 0


def test_rows_of_a_million_are_sorted_one_after_the_other():
    assert within((8, 1_000_000)) == within((1, 1_000_000))
    assert within((8, 999_999)) > 8 * within((1, 999_999))


def test_other_axes_and_strides_are_copied_before():
    there = within((8192, 8), 0)
    assert there == within((8, 8192)) + 8192 * 8 * (4 + 4 + 8)
    assert there == within((8192, 8), stable=True, dim=0, descending=True)
    assert within((0, 8192)) == within(()) == 0
    assert within((8192,), dtype=torch.int64) > within((8192,))


class Sorting(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(64))

    def forward(self, x):
        return (x * self.weight).flatten(1).argsort(-1, descending=True)


def test_a_trace_counts_it_for_accelerators_alone():
    model, x = Sorting(), torch.zeros(3, 512, 64)
    steps = [each for each in trace_model(model, x).steps if isinstance(each, Op)]
    assert [sum(each.on_card) for each in steps if "sort" in each.name] == [within((3, 512 * 64))]
    assert not any(each.on_host for each in steps)
    told = [
        compile_model(model, max_memory={device: "8GiB"}, example_inputs=(x,), workload="forward").ledger[0]
        for device in ("cuda:0", "cpu")
    ]
    assert 0 <= told[0].activations - told[1].activations - within((3, 512 * 64)) < 8 * 512


@pytest.mark.parametrize("rows", [1, 4])
def test_a_sampler_of_many_words_has_it_on_a_card(rows):
    model = activation_peaks.built("llama", vocab_size=128_000)
    told = [
        compile_model(model, max_memory={device: "8GiB"}, rows=rows, prompt=24, generate=4).ledger[0]
        for device in ("cuda:0", "cpu")
    ]
    more = told[0].activations - told[1].activations
    assert 0.3 * within((rows, 128_000)) < more <= within((rows, 128_000))

"""What is streamed by rows: only what a call chose travels, and the outputs are those of all of it."""

from __future__ import annotations

from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
from compile_plan.compiler.loading import load_model
from compile_plan.compiler.loading.streaming.choosers import chooser_of
from compile_plan.compiler.loading.streaming.lanes import DirectLane
from compile_plan.compiler.loading.streaming.row_cache import RowCache
from compile_plan.compiler.loading.streaming.streamed import Streamed
from compile_plan.ir import Unit
from own_process import run_support
from safetensors.torch import save_file
from tiny_checkpoints import plan
from tiny_modules import Tied
from torch import nn

LAYERS, EXPERTS, CHOSEN = 2, 8, 2
FORWARDS = 6


@pytest.fixture(scope="module", name="runs")
def _runs():
    return run_support("rows_runs.py")


def test_outputs_are_equal_and_everything_is_at_rest(runs):
    assert len(runs) == 28
    wrong = {case: got for case, got in runs.items() if not (got["equal"] and got["resting"])}
    assert not wrong
    assert all(got["experts"] == [EXPERTS] for got in runs.values()), runs


def test_rows_are_right_in_the_circumstances_people_run_them_in():
    runs = run_support("rows_in_use.py")
    assert len(runs) >= (128 if find_spec("peft") is None else 152)
    assert {case: got for case, got in runs.items() if got != "equal"} == {}


def test_every_mixture_is_streamed_by_rows(runs):
    assert all(got["by rows"] == LAYERS + case.endswith("table") for case, got in runs.items()), runs


def test_tokens_one_by_one_bring_what_they_chose(runs):
    got = runs["mixtral, hub, disk"]
    assert got["whole"] == 2 * LAYERS  # the prompts, which choose nearly all
    assert got["misses"] < FORWARDS * LAYERS * EXPERTS
    assert got["hits"] == 0


def test_nothing_whole_is_brought_ahead_of_a_pass_that_takes_rows(runs):
    assert {case: got["ahead"] for case, got in runs.items() if got["ahead"]} == {}


def test_a_cache_brings_a_row_once(runs):
    without, having = runs["mixtral, hub, cpu"], runs["mixtral, hub, cpu, cached"]
    assert having["hits"] > 0
    assert having["hits"] + having["misses"] == without["misses"]


def test_a_choice_too_large_for_the_buffer_is_taken_in_turns(runs):
    assert runs["mixtral, hub, cpu, in turns"]["whole"] == 0
    assert runs["mixtral, hub, disk, one at a time"]["whole"] == 0


class Scaled(nn.Embedding):
    def forward(self, ids):
        return super().forward(ids) * 3


class Shifted(nn.Embedding):
    """Numbers its rows itself, as learned positions do."""

    def forward(self, ids):
        return super().forward((ids + 1) % self.num_embeddings)


class Masked(nn.Embedding):
    """Knows one row by its number."""

    def forward(self, ids):
        known = self.padding_idx is not None
        return super().forward(ids) * (ids != self.padding_idx)[..., None] if known else super().forward(ids)


class Counting(nn.Embedding):
    """Writes to a parameter beside its table."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.calls = nn.Parameter(torch.zeros(1), requires_grad=False)

    def forward(self, ids):
        self.calls.add_(1)
        return super().forward(ids)


def test_a_table_stays_whole_when_a_forward_writes_to_what_is_beside_it(tmp_path):
    real = nn.Sequential(Counting(9, 4))
    save_file(real.state_dict(), tmp_path / "model.safetensors")
    with torch.device("meta"):
        model = nn.Sequential(Counting(9, 4))
    layout = plan(Unit("", "cpu", "cpu"), Unit("0", "disk", "cpu", by_rows=True))
    load_model(layout, model, tmp_path, dtype="float64")
    assert len(model._compile_plan_execution.rows) == 1
    with torch.no_grad():
        before = float(model[0].calls)
        for ids in (torch.tensor([[3, 1, 3]]), torch.tensor([[8]]), torch.tensor([[0, 7]])):
            assert torch.equal(model(ids), real.double()(ids))
    assert torch.equal(model[0].weight.double(), real[0].weight)
    assert float(model[0].calls) == before + 3


def test_only_tables_that_are_looked_up_are_taken_by_rows():
    assert chooser_of(nn.Embedding(9, 4, padding_idx=8)).tables == ("weight",)
    assert chooser_of(Scaled(9, 4)).count == 9
    assert chooser_of(Shifted(9, 4)) is None
    masked = Masked(9, 4, padding_idx=1)
    nn.init.ones_(masked.weight)
    assert chooser_of(masked) is None
    assert chooser_of(nn.Embedding(9, 4, max_norm=1.0)) is None
    assert chooser_of(nn.Linear(9, 4)) is None


def test_trying_a_table_leaves_it_as_it_was():
    table = nn.Embedding(9, 4, padding_idx=8)
    weight = table.weight
    chooser_of(table)
    assert table.weight is weight
    assert (table.padding_idx, table.num_embeddings) == (8, 9)


def test_the_row_unused_for_longest_makes_room():
    one = Streamed(torch.zeros(9, 4), torch.zeros(9, 4), torch.device("cpu"), torch.float32, None)
    cache = RowCache([one], 3)
    assert cache.place([1, 2, 3]) == ([0, 1, 2], [(1, 0), (2, 1), (3, 2)])
    assert cache.place([1]) == ([0], [])
    assert cache.place([4]) == ([1], [(4, 1)])  # 2 was
    assert cache.place([1, 3, 4]) == ([0, 2, 1], [])
    slots, brought = cache.place([1, 5, 6])  # none of the call's own rows makes room
    assert slots[0] == 0
    assert [row for row, _ in brought] == [5, 6]
    one.writes += 1
    assert len(cache.place([1, 5])[1]) == 2  # what is at rest is another value now


class Copies(DirectLane):
    """Remembers the shapes of what it was asked to copy, by call."""

    def __init__(self):
        self.calls = []

    def copy(self, pairs, after):
        pairs = list(pairs)
        self.calls.append([tuple(source.shape) for source, _ in pairs])
        return super().copy(pairs, after)


def test_rows_side_by_side_are_one_copy_and_those_in_the_cache_none():
    weight, lane = torch.arange(36.0).view(9, 4), Copies()
    known = SimpleNamespace(pinned=True)
    one = Streamed(weight, weight.data, torch.device("cpu"), torch.float32, None, block=known)
    cache = RowCache([one], 5)
    for rows in ([1, 2, 3, 7], [2, 7], [3, 8]):
        slots, brought = cache.place(rows)
        cache.fill(brought, lane)
        assert torch.equal(cache.values[0][slots], weight[rows])
    assert lane.calls == [[(3, 4), (4,)], [(4,)]]


@pytest.mark.parametrize("count", [0, 1, 127, 128, 257, 1024, 1031, 64000])
def test_a_write_to_all_of_a_tensor_is_seen_and_one_to_its_ends(count):
    weight = torch.zeros(count, dtype=torch.uint8)
    one = Streamed(weight, weight.data, torch.device("cpu"), weight.dtype, None)
    assert 8 * min(count, 122) <= len(one.look()) <= 8 * 128
    for part in (slice(None), slice(0, 1), slice(max(count - 1, 0), None))[: 3 * bool(count)]:
        before = one.look()
        weight.data[part] += 1
        assert one.look() != before


def test_a_head_and_the_table_tied_to_it_have_what_they_need_in_two_threads():
    """Whoever enters or leaves first, and while rows are brought that will be lent."""
    runs = run_support("tied_threads.py")
    assert len(runs) == 2 * (6 + 3)
    assert {case: got for case, got in runs.items() if got != "equal"} == {}


def test_a_table_is_looked_up_in_while_the_head_tied_to_it_has_all_of_it(tmp_path):
    real, ids, found = Tied(), torch.tensor([[5, 2]]), []
    save_file({"table.weight": real.table.weight.data}, tmp_path / "model.safetensors")
    with torch.device("meta"):
        model = Tied()
    units = (Unit(path, "disk", "cpu", by_rows=True) for path in ("table", "head"))
    load_model(
        plan(Unit("", "cpu", "cpu"), *units), model, tmp_path, dtype="float64"
    )  # converted: it is lent
    model.head.register_forward_pre_hook(lambda *_: found.append(model.table(ids)))
    with torch.no_grad():
        for _ in range(2):
            assert torch.equal(model(ids), real.double()(ids))
    assert all(torch.equal(each, real.table(ids)) for each in found)
    assert len(found) == 2

"""The streaming runtime: right whoever calls the model, however a forward ended, in every process."""

from __future__ import annotations

import json
import os
import threading
from collections import deque

import pytest
import torch
from compile_plan.compiler import runtime_report
from compile_plan.compiler.loading import load_model, release_model
from compile_plan.compiler.loading.streaming.arena import Arena
from compile_plan.compiler.loading.streaming.carrier import outside
from compile_plan.compiler.loading.streaming.lanes import DirectLane, LaneWaits
from compile_plan.compiler.loading.streaming.row_cache import RowCache
from compile_plan.compiler.loading.streaming.site import Site
from compile_plan.compiler.loading.streaming.stream import Stream
from compile_plan.compiler.loading.streaming.streamed import Streamed
from compile_plan.compiler.loading.streaming.supply import Supply
from compile_plan.ir import PlanError, Unit
from own_process import run_support
from packed_tensors import Packed
from safetensors.torch import save_file
from tiny_checkpoints import plan
from torch import nn

X = torch.linspace(-1, 1, 48).view(3, 16)


def test_streamed_models_compute_the_same_in_every_circumstance():
    found = run_support("streamed_runs.py")
    assert len(found) == 26
    assert {got for rows in found.values() for got in rows.values()} == {"equal"}, found


def test_a_model_that_is_changed_computes_as_changed_or_says_why_not():
    pytest.importorskip("accelerate")
    found = run_support("changed_runs.py")
    refused = {
        "jit_traced": ["faked-while-streaming"],
        "symbolically_traced": ["faked-while-streaming"],
        "given_to_accelerate": ["foreign-hooks"],
    }
    assert len(found) == 17
    assert {change: got for change, got in found.items() if got != ["equal"]} == refused


def test_models_in_inference_mode_compute_the_same_wherever_their_parts_are():
    pytest.importorskip("transformers")
    found = run_support("inference_runs.py")
    assert len(found) == 10
    assert {layout: right for layout, right in found.items() if right != [True] * 3} == {}


def test_adapters_on_weights_of_experts_are_added_where_the_weights_are():
    pytest.importorskip("peft")
    found = run_support("adapted_experts.py")
    assert len(found) == 8
    assert {case: right for case, right in found.items() if not all(right)} == {}


def test_adapters_of_peft_stream_beside_their_layers():
    pytest.importorskip("peft")
    found = run_support("adapted_runs.py")
    assert found == {store: {"before": "equal", "after": "equal"} for store in ("cpu", "disk")}


def test_what_joins_a_site_later_is_brought_ahead_with_it():
    """A buffer for the largest layer had no room for it with an adapter: it came when it was asked for."""
    assert run_support("joined_runs.py") == {
        f"{case} {store}": [5, after, 0]
        for case, after in (("tight", 5), ("two_cards", 7))
        for store in ("cpu", "disk")
    }


def layers():
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Sequential(nn.Linear(16, 16), nn.Tanh()) for _ in range(4)))


@pytest.fixture(name="streamed")
def _streamed(tmp_path):
    """A model in double precision, and its twin on disk in single precision."""
    real = layers()
    save_file(real.state_dict(), tmp_path / "model.safetensors")
    with torch.device("meta"):
        model = layers()
    return real.double(), load_model(plan(Unit("", "disk", "cpu")), model, tmp_path, dtype="float64")


def test_a_compiled_model_computes_the_same(streamed):
    real, model = streamed
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        for _ in range(3):
            assert torch.equal(compiled(X.double()), real(X.double()))


def test_memory_given_to_weights_at_rest_is_what_rests(streamed):
    real, model = streamed
    with torch.no_grad():
        assert torch.equal(model(X.double()), real(X.double()))
        for dtype in (torch.float32, torch.float64):  # as it rests, and as it is used
            for one in (*real.parameters(), *model.parameters()):
                one.data = one.data.to(torch.float64 if one.dtype == torch.float64 else dtype) * 2
            for _ in range(2):
                assert torch.equal(model(X.double()), real(X.double()))
    release_model(model)
    assert all(map(torch.equal, model.double().parameters(), real.parameters()))


def test_a_forward_without_values_is_refused_and_leaves_nothing(streamed):
    real, model = streamed
    with pytest.raises(PlanError) as caught:
        torch.export.export(model, (X.double(),))
    assert [found.rule.code for found in caught.value.diagnostics] == ["faked-while-streaming"]
    with torch.no_grad():
        assert torch.equal(model(X.double()), real(X.double()))
    release_model(model)
    assert torch.export.export(model.double(), (X.double(),)).module()(X.double()).shape == X.shape


def test_autocast_computes_the_same(streamed):
    real, model = streamed
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(X.double()), real(X.double()))


def test_a_forked_process_is_told_that_it_cannot_use_the_card(monkeypatch):
    away = Streamed(torch.zeros(2), torch.zeros(2), torch.device("cuda:0"), torch.float32, None)
    stream = Stream([Site("layer", nn.Identity(), [away])], {})
    own = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: own + 1)
    with pytest.raises(PlanError) as caught:
        stream.enter(0)
    assert [found.rule.code for found in caught.value.diagnostics] == ["forked-while-streaming"]
    assert "`cuda:0`" in caught.value.diagnostics[0].message


def test_weights_of_a_class_of_their_own_are_no_place_for_plain_numbers(tmp_path):
    model = layers()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    model[1][0].weight = nn.Parameter(Packed.of(torch.rand(16, 16)), requires_grad=False)
    for store in ("cpu", "disk"):
        with pytest.raises(PlanError) as caught:
            load_model(plan(Unit("", "cpu", "cpu"), Unit("1", store, "cpu")), model, tmp_path)
        found = {diagnostic.rule.code: diagnostic for diagnostic in caught.value.diagnostics}
        assert found["opaque-weights"].message.startswith("`1.0.weight` is a `Packed`, which plain numbers")


def test_the_report_says_what_came_since_the_last(streamed):
    _, model = streamed
    assert {site.nbytes for site in runtime_report(model).sites} == {0}
    with torch.no_grad():
        model(X.double())
        model(X.double())
    report = runtime_report(model)
    total = 2 * sum(p.numel() * 8 for p in model.parameters())  # twice, in double precision
    assert sum(site.nbytes for site in report.sites) == report.devices[0].nbytes == total
    assert {site.calls for site in report.sites} == {2}
    assert [device.device for device in report.devices] == ["cpu"]
    assert json.loads(report.to_json())["devices"][0]["nbytes"] == total
    assert runtime_report(model).devices[0].nbytes == 0
    assert runtime_report(layers()).sites == ()


def test_forwards_of_other_threads_go_on_while_a_report_waits_for_the_card(streamed, monkeypatch):
    _, model = streamed
    free = []

    class Wait:
        def synchronize(self):
            lock = model._compile_plan_execution.stream.lock
            other = threading.Thread(target=lambda: free.append(lock.acquire(blocking=False)))
            other.start()
            other.join()

        def elapsed_time(self, _after):
            return 250.0

    with torch.no_grad():
        model(X.double())
    monkeypatch.setattr(
        Supply, "waits", lambda _: {torch.device("cpu"): LaneWaits(deque([(Wait(), Wait())]))}
    )
    report = runtime_report(model)
    assert free == [True]
    assert report.devices[0].stalled >= 0.25


class After:
    """A mark that is reached when so many others were made."""

    def __init__(self, number, lane):
        self.number, self.lane = number, lane

    def query(self):
        return self.lane.count > self.number + self.lane.behind


class Marks(DirectLane):
    """Counts its marks; what they stand for comes later than so many others are made."""

    def __init__(self, behind=1000):
        self.count, self.behind = 0, behind

    def mark(self):
        self.count += 1
        return After(self.count, self)


def test_memory_is_given_out_again_only_behind_its_last_users():
    lane = Marks()
    arena = Arena(torch.device("cpu"), 1024, lane)
    first, second = arena.take(512), arena.take(512)
    assert arena.take(1) is None
    assert first.after == second.after  # whoever had the memory before the arena
    assert [mark.number for mark in first.after] == [1]
    users = lane.mark(), lane.mark(), lane.mark()
    arena.give(first, users[0])
    arena.give(second, users[1])
    whole = arena.take(1024)
    assert {*whole.after} == {*users[:2]}
    arena.give(whole, None)  # given up, maybe before anything waited for them
    again = arena.take(256)
    assert {*again.after} == {*users[:2]}
    arena.give(again, users[2])
    assert arena.take(256).after == [users[2]]


class Told(DirectLane):
    """Remembers what memory the allocator is told of."""

    def __init__(self):
        self.memory = []

    def fills(self, memory):
        self.memory.append(memory)


def test_the_allocator_is_told_of_all_memory_that_copies_go_to():
    """Else it hands on what a copy is still on its way to, as soon as nobody holds it."""
    lane, device = Told(), torch.device("cpu")
    lot = Arena(device, 1024, lane).take(512)
    beside = outside(512, device, lane)
    table = Streamed(torch.zeros(8, 4), torch.zeros(8, 4), device, torch.float32, None)
    rows = RowCache([table], 2)
    for _ in range(2):
        rows.fill([], lane)
    told = [each.untyped_storage()._cdata for each in lane.memory]
    assert told == [each.untyped_storage()._cdata for each in (lot.memory, beside, *rows.values)]


@pytest.mark.parametrize("lane", [Marks(8), DirectLane()])
def test_what_a_buffer_remembers_stays_small(lane):
    """Sites of different sizes, some brought ahead and given up unused, forward after forward."""
    arena, generator = Arena(torch.device("cpu"), 1 << 14, lane), torch.Generator().manual_seed(0)
    for _ in range(400):
        sizes = torch.randint(1, 1 << 12, (4,), generator=generator).tolist()
        lots = [lot for lot in map(arena.take, sizes) if lot is not None]
        for number, lot in enumerate(lots):
            assert len(lot.after) <= 16
            arena.give(lot, lane.mark() if number == 0 else None)
    assert len(arena._past) <= 16 * 8  # each mark once for each stretch of memory


def test_parts_of_a_buffer_never_overlap():
    arena = Arena(torch.device("cpu"), 4096, DirectLane())
    generator, held = torch.Generator().manual_seed(0), []
    for _ in range(300):
        wanted = int(torch.randint(1, 1500, (), generator=generator))
        lot = arena.take(wanted)
        if lot is None:
            arena.give(held.pop(int(torch.randint(len(held), (), generator=generator))), None)
            continue
        assert lot.memory.numel() >= wanted
        assert all(lot.end <= other.start or other.end <= lot.start for other in held)
        held.append(lot)

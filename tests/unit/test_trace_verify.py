from __future__ import annotations

import random
from dataclasses import replace
from functools import cache

import pytest
import torch
from compile_plan.compiler import compile_model
from compile_plan.compiler.tracing import trace_model, traced_plan, verify_plan, verify_trace
from compile_plan.ir import Atomic, Device, Diagnostics, Model, Plan, Unit
from compile_plan.ir.purposes import ON_ONE, ON_ONE_HOST
from small_models import small_model
from tiny_modules import Borrowed, Chain, Residual, Stack
from torch import nn

X = torch.zeros(2, 4)


def plan(*units: tuple[str, str, str], memory: int | None = None) -> Plan:
    devices = (Device("cuda:0", memory), Device("cuda:1", None), Device("cpu", None), Device("disk", None))
    return Plan(model=Model("tiny"), devices=devices, units=tuple(Unit(*unit) for unit in units))


def test_one_device_moves_nothing():
    found = verify_plan(plan(("", "cuda:0", "cuda:0")), Stack(Residual), X)
    assert found.lawful
    assert found.copies == found.streamed == ()
    assert found.hops == found.moved_nbytes == 0


def test_a_hop_costs_the_bytes_that_move():
    units = [(f"blocks.{i}", f"cuda:{i // 2}", f"cuda:{i // 2}") for i in range(3)]
    found = verify_plan(plan(*units), Stack(Residual), X)
    assert found.lawful
    assert [(c.path, c.origin, c.target, c.nbytes) for c in found.copies] == [
        ("blocks.2", "cuda:0", "cuda:1", X.nbytes)
    ]
    assert found.hops == 1


def test_a_container_is_entered_through_its_children():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.blocks = nn.ModuleList([Residual(), Residual()])

        def forward(self, x):
            x = self.first(x)
            for block in self.blocks:
                x = block(x)
            return x

    found = verify_plan(plan(("first", "cuda:0", "cuda:0"), ("blocks", "cuda:1", "cuda:1")), Model(), X)
    assert found.lawful
    assert found.hops == 1


def test_meeting_names_op_devices_and_both_modules():
    units = [("blocks.0.up", "cuda:0", "cuda:0"), ("blocks.0.down", "cuda:1", "cuda:1")]
    (found,) = verify_plan(plan(*units), Stack(Residual, 1), X).diagnostics
    assert found.code == "devices-meet"
    assert found.message == "`aten.add.Tensor` in `blocks.0` gets a tensor on cuda:0 and one on cuda:1"
    assert found.notes == ("cuda:0: an input of the model", "cuda:1: made in `blocks.0.down`")
    assert "atomic blocks.0" in (found.help or "")


def test_streamed_units_count_their_bytes_each_time():
    class Twice(Chain):
        def forward(self, x):
            return self.second(self.first(self.first(x)))

    found = verify_plan(plan(("first", "cpu", "cuda:0"), ("second", "cuda:0", "cuda:0")), Twice(), X)
    weight = 4 * (4 * 4 + 4)
    assert found.lawful
    assert found.streamed == (("cuda:0", 2 * weight),)


def test_the_peak_adds_weights_activations_and_the_streaming_buffer():
    found = verify_plan(plan(("first", "cpu", "cuda:0"), ("second", "cuda:0", "cuda:0")), Chain(), X)
    peak = found.peaks[0]
    weight = 4 * (4 * 4 + 4)
    assert (peak.device, peak.weights, peak.streaming) == ("cuda:0", weight, weight)
    assert peak.activations == 3 * X.nbytes
    assert found.peaks[2].weights == weight


def test_weights_of_a_streamed_unit_that_is_not_called_are_away():
    units = [("embed", "cpu", "cuda:0"), ("inner", "cuda:0", "cuda:0")]
    codes = [d.code for d in verify_plan(plan(*units), Borrowed(), X).diagnostics]
    assert codes == ["weights-away"]


def test_compute_in_place_runs_on_the_cpu():
    found = verify_plan(plan(("first", "cuda:0", "cuda:0"), ("second", "cpu", "cpu")), Chain(), X)
    assert found.lawful
    assert found.streamed == ()
    assert [copy.target for copy in found.copies] == ["cpu"]


@pytest.mark.parametrize("extra", [0, 1])
def test_a_peak_above_the_budget_is_a_warning(extra):
    model = Chain()
    whole = plan(("", "cuda:0", "cuda:0"))
    peak = verify_plan(whole, model, X).peaks[0].nbytes
    found = verify_plan(plan(("", "cuda:0", "cuda:0"), memory=peak - extra), model, X)
    assert [d.code for d in found.diagnostics] == ["verified-peak-exceeded"] * extra
    assert found.lawful


def test_a_tensor_left_on_the_cpu_meets_the_accelerator():
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 4)
            self.tables = [torch.ones(4)]  # in a list, no loader finds it

        def forward(self, x):
            return self.inner(x) * self.tables[0]

    (found,) = verify_plan(plan(("", "cuda:0", "cuda:0")), Constant(), X).diagnostics
    assert found.code == "devices-meet"
    assert "neither parameter nor buffer" in found.notes[1]


@cache
def table(width: int, device: object) -> torch.Tensor:
    """Return what is remembered for each device."""
    return torch.arange(float(width), device=device) + 1


class Remembers(nn.Module):
    """Adds a remembered table, made on the device of what it reads or on the host; fails if asked."""

    def __init__(self, *, host: bool = False, fails: bool = False) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.host, self.fails = host, fails

    def forward(self, x):
        x = self.inner(x)
        known = table(x.shape[-1], None if self.host else x.device)
        if self.fails:
            raise ValueError
        return x + known


@pytest.mark.parametrize("before", [Remembers(), Remembers(fails=True), None])
def test_what_a_function_remembers_by_device_is_on_each_device_that_asks(before):
    table.cache_clear()
    units = plan(("", "cuda:0", "cuda:0"))
    if before is not None:
        traced_plan(units, before, X, Diagnostics())
        assert table.cache_info().currsize == 1
    for _ in range(2):
        assert verify_plan(units, Remembers(), X).diagnostics == ()


def test_what_a_function_remembers_on_the_host_is_there_for_every_device():
    table.cache_clear()
    for _ in range(2):
        found = verify_plan(plan(("", "cuda:0", "cuda:0")), Remembers(host=True), X)
        assert [d.code for d in found.diagnostics] == ["devices-meet"]


def test_scalars_and_indices_may_come_from_the_cpu():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x):
            return self.inner(x)[torch.tensor([1, 0])] * torch.tensor(2.0)

    assert verify_plan(plan(("", "cuda:0", "cuda:0")), Mixed(), X).diagnostics == ()


def test_weights_by_two_names_are_read_where_the_reader_knows_them():
    model = small_model("gpt2")
    trace = trace_model(model, seq=8)
    units = [("transformer", "cuda:0", "cuda:0"), ("lm_head", "cuda:0", "cuda:0")]
    assert verify_trace(replace(plan(*units), tree=trace.tree), trace).lawful


def test_a_plan_learns_cuts_and_demands_from_the_trace():
    start = Plan(model=Model("t5"), constraints=(Atomic("T5Block", by_class=True),))
    diagnostics = Diagnostics()
    learned = traced_plan(start, small_model("t5"), None, diagnostics, batch=2, seq=8)[0]
    assert not len(diagnostics)
    assert Atomic("T5Block", by_class=True) not in learned.constraints
    assert Atomic("T5LayerFF", by_class=True) in learned.constraints
    apart = {"kv cache", "activations", "logits"}
    assert {demand.purpose for demand in learned.demands} == apart | {ON_ONE, ON_ONE_HOST}


def test_cache_tokens_make_the_cache_of_that_length():
    start = Plan(model=Model("llama"))
    learned = traced_plan(start, small_model("llama"), None, Diagnostics(), batch=2, seq=8, cache_tokens=100)[
        0
    ]
    assert {d.nbytes for d in learned.demands if d.purpose == "kv cache"} == {2 * 2 * 100 * 2 * 16 * 4}


def test_a_plan_stays_as_it_was_when_there_is_no_trace():
    start = Plan(model=Model("chain"))
    diagnostics = Diagnostics()
    assert traced_plan(start, Chain(), None, diagnostics) == (start, None)
    assert [d.code for d in diagnostics] == ["no-example-inputs"]


COMMON = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 6, "num_attention_heads": 4}
WRITERS = {
    "llama": {**COMMON, "intermediate_size": 64, "num_key_value_heads": 2},
    "mixtral": {**COMMON, "intermediate_size": 48, "num_key_value_heads": 2, "num_local_experts": 4},
    "gpt2": {"vocab_size": 96, "n_embd": 32, "n_layer": 6, "n_head": 4, "n_positions": 64},
}


def test_what_every_layer_takes_goes_to_a_device_once():
    model = small_model("llama", **WRITERS["llama"])
    there = {f"model.layers.{i}" for i in (2, 3, 4, 5)}
    paths = ("model.embed_tokens", *(f"model.layers.{i}" for i in range(6)), "model.norm", "model.rotary_emb")
    cards = {path: "cuda:1" if path in there else "cuda:0" for path in (*paths, "lm_head")}
    found = verify_plan(plan(*((path, card, card) for path, card in cards.items())), model)
    assert found.lawful
    assert next(copy.path for copy in found.copies if copy.again) == "model.layers.3"
    assert found.hops == 2  # to the third layer, and back behind the last


@pytest.mark.parametrize("kind", WRITERS)
def test_a_plan_states_the_changes_of_device_that_its_replay_sees(kind):
    model = small_model(kind, **WRITERS[kind])
    total = sum(tensor.nbytes for tensor in model.parameters())
    for seed in range(6):
        draw = random.Random(seed)  # noqa: S311  reproducible on purpose
        first, second = (int(total * draw.uniform(*span)) for span in ((0.2, 0.8), (0.1, 0.7)))
        budgets = {0: first, 1: second, "cpu": "1GiB"}
        if seed % 2:
            del budgets[1]
        objective = (None, "balance", "accelerator-bytes")[seed % 3]
        placed = compile_model(model, max_memory=budgets, example_inputs="auto", objective=objective)
        seen = verify_plan(placed, model)
        assert seen.lawful
        assert placed.outcome.hops == seen.hops
        homes = {unit.run for unit in placed.units}
        assert (seen.hops == 0) == (len(homes) == 1)

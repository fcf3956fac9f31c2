"""What a forward asks for: values that follow from inputs, devices as they will be, state handed on."""

from __future__ import annotations

from collections import UserDict

import pytest
import torch
import transformers
from compile_plan.compiler.tracing import cut_rules, trace_model, try_trace, verify_trace
from compile_plan.ir import Diagnostics
from random_cuts import random_plan
from torch import nn

X = torch.zeros(2, 4)


class Calling(nn.Module):
    """Runs a function between two layers, so that what it asks for is asked of a traced tensor."""

    def __init__(self, function):
        super().__init__()
        self.before, self.after = nn.Linear(4, 4), nn.Linear(4, 4)
        self.register_buffer("stride", torch.tensor(2), persistent=False)
        self.function = function

    def forward(self, x):
        return self.after(self.function(self, self.before(x)))


def traced(function):
    diagnostics = Diagnostics()
    trace = try_trace(Calling(function), X, diagnostics)
    return trace, [found.code for found in diagnostics]


def test_a_tensor_says_it_is_on_an_accelerator():
    def function(_model, x):
        assert x.device.type not in {"meta", "cpu"}
        made = torch.ones(4, device=x.device)
        assert made.is_meta
        return x + made + torch.ones(4, device=str(x.device)).to(x.device)

    trace, found = traced(function)
    assert trace is not None
    assert found == []


def test_a_tensor_on_the_cpu_says_so():
    def function(_model, x):
        assert torch.ones(4).device.type == "cpu"
        assert torch.ones(4, device="cpu").device.type == "cpu"
        return x

    assert traced(function)[0] is not None


@pytest.mark.parametrize("make", [torch.tensor, torch.as_tensor, torch.asarray])
def test_numbers_put_on_a_device_keep_their_values(make):
    def function(_model, x):
        shape = make([2, 2], device=x.device)
        assert shape.is_meta
        return x.reshape(shape.tolist()[0], -1)[:, : int(shape.sum())]

    assert traced(function) == (traced(function)[0], [])


def test_numbers_of_tensors_keep_their_values():
    def function(_model, x):
        size = torch.tensor([2, 2], device=x.device).sum()
        return x[:, : torch.tensor([size, size], device=x.device).tolist()[1]]

    assert traced(function)[1] == []


def test_whole_numbers_filled_in_one_by_one_are_known():
    def function(_model, x):
        shapes = torch.empty((1, 2), dtype=torch.long, device=x.device)
        shapes[0, 0], shapes[0, 1] = 2, 4
        torch._check_tensor_all_with(ValueError, shapes.prod(-1) == 8)
        return x

    assert traced(function)[1] == []


def test_what_an_unknown_value_overwrites_is_unknown():
    def function(_model, x):
        flags = torch.zeros(4, dtype=torch.bool, device=x.device)
        flags[:2] = x[0, :2] > 0
        return x if bool(flags.sum() == 0) else -x

    assert traced(function)[1] == ["values-assumed"]


def test_small_buffers_are_known():
    def function(model, x):
        return x.repeat(1, int(model.stride))[:, :4] if model.stride == 2 else x.unknown

    assert traced(function)[1] == []


def test_a_value_in_a_text_is_its_number():
    def function(_model, x):
        return {"layer 3": x}[f"layer {torch.tensor(3, device=x.device)}"]

    assert traced(function)[1] == []


class Routed(nn.Module):
    """Sends each token to one of its experts, one call for each that has any."""

    def __init__(self):
        super().__init__()
        self.router = nn.Linear(4, 4)
        self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))

    def forward(self, x):
        chosen = self.router(x).topk(2).indices.flatten()
        counts = chosen.bincount(minlength=4).tolist()
        parts = x.repeat_interleave(2, 0)[chosen.sort().indices].split(counts)
        return torch.cat([expert(part) for expert, part in zip(self.experts, parts, strict=True)])


def test_experts_take_turns_where_their_counts_are_asked_for():
    diagnostics = Diagnostics()
    trace = try_trace(Routed(), torch.zeros(6, 4), diagnostics)
    (found,) = diagnostics
    assert found.code == "values-assumed"
    assert set(trace.order) == set(range(len(trace.tree))) - {trace.tree.module_index["experts"]}


@pytest.mark.parametrize(
    "ask",
    [
        lambda x: x if x.isfinite().all() else x.unknown,
        lambda x: x.unknown if x.isnan().any() else x,
        lambda x: x.repeat_interleave(x[:, 0].exp().long(), dim=0),
        lambda x: x[x.argmax(-1).tolist()[0] :],
    ],
)
def test_a_value_that_depends_on_weights_is_assumed_and_said(ask):
    trace, found = traced(lambda _model, x: ask(x))
    assert trace is not None
    assert found == ["values-assumed"]


def test_places_of_an_unknown_choice_are_all_places_where_others_are_assumed():
    def function(_model, x):
        assert int(x.argmax()) >= 0
        places = (x > 0).nonzero()
        assert len(places) == x.numel()
        return x + places.sum()

    assert traced(function)[1] == ["values-assumed"]


class Moving(UserDict):
    """Moves itself, as caches shared between layers do."""

    def to(self, device):
        for key in self:
            self[key] = self[key].to(device)
        return self


class Handing(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.make = make
        self.writer, self.reader = Keeping("write"), Keeping("read")

    def forward(self, x):
        state = self.make()
        return self.reader(self.writer(x, state), state)


class Keeping(nn.Module):
    def __init__(self, role):
        super().__init__()
        self.inner, self.role = nn.Linear(4, 4), role

    def forward(self, x, state):
        x = self.inner(x)
        if self.role == "read":
            return x + (state.pop() if isinstance(state, list) else state.pop("x"))
        if isinstance(state, list):
            state.append(x)
        else:
            state["x"] = x
        return x


@pytest.mark.parametrize("make", [list, dict, Moving])
def test_state_handed_from_module_to_module_arrives(make):
    trace = trace_model(Handing(make), X)
    assert verify_trace(random_plan(trace, 2, 0), trace).lawful


def test_an_index_made_for_a_weight_is_where_the_weight_is():
    config = transformers.LongT5Config(
        vocab_size=64, d_model=16, d_kv=4, d_ff=32, num_layers=2, num_decoder_layers=1, num_heads=4,
        local_radius=4,
    )  # fmt: skip
    with torch.device("meta"):
        model = transformers.LongT5ForConditionalGeneration(config)
    trace = trace_model(model, seq=16)
    assert cut_rules(trace)
    for seed in range(6):
        assert verify_trace(random_plan(trace, 2 + seed % 2, seed), trace).lawful

from __future__ import annotations

import copy

import networkx as nx
import pytest
import torch
from compile_plan.compiler.tracing import (
    Moments,
    cache_demands,
    demands,
    example_inputs,
    module_graph,
    trace_model,
    try_moments,
    try_trace,
)
from compile_plan.compiler.tracing.inputs.example_inputs import parse_inputs
from compile_plan.ir import Diagnostics, PlanError
from live_bytes import measured_peak, shared_heads_are_fused
from small_models import CONFIGS, small_model
from tiny_modules import Branching, Chain, Residual, Stack
from torch import nn

X = torch.zeros(2, 4)


def test_the_users_model_is_not_touched():
    model = Stack(Residual)
    before, state = list(model.parameters()), copy.deepcopy(model.state_dict())
    model.train()
    trace_model(model, X)
    assert all(a is b for a, b in zip(before, model.parameters(), strict=True))
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_calls_order_and_flops():
    trace = trace_model(Stack(Chain, 2), X)
    paths = trace.tree.paths
    assert [paths[module] for module in trace.order] == [
        "", "blocks.0", "blocks.0.first", "blocks.0.second", "blocks.1", "blocks.1.first", "blocks.1.second",
    ]  # fmt: skip
    one = 2 * 2 * 4 * 4
    assert trace.flops[0] == 4 * one
    assert trace.own_flops[trace.tree.module_index["blocks.0.first"]] == one


def test_a_shared_module_is_called_twice():
    model = Chain()
    model.second = model.first
    trace = trace_model(model, X)
    assert trace.calls_of[trace.tree.module_index["first"]] == 2


def test_the_graph_carries_bytes():
    graph = module_graph(trace_model(Stack(Chain, 2), X))
    assert isinstance(graph, nx.DiGraph)
    assert graph.edges["blocks.0.first", "blocks.0"]["nbytes"] == 2 * 4 * 4
    assert graph.edges["blocks.0", "blocks.1"]["nbytes"] == 2 * 4 * 4
    assert graph.nodes["blocks.1"]["class"] == "Chain"


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_the_predicted_peak_is_the_measured_one(name):
    torch.manual_seed(0)
    model = small_model(name, device="cpu")
    _, inputs = next(example_inputs(model, None, Diagnostics(), seq=48))
    real = {
        key: torch.randn(tensor.shape) if tensor.is_floating_point() else tensor
        for key, tensor in inputs.items()
    }
    predicted, measured = trace_model(model, real).activation_peak, measured_peak(model, real)
    assert predicted >= 0.95 * measured
    if name != "falcon" or not shared_heads_are_fused():
        assert predicted <= 1.05 * measured


def test_branching_on_weights_is_one_note_that_names_op_and_module():
    diagnostics = Diagnostics()
    assert try_trace(Stack(Branching, 1), X, diagnostics) is not None
    (found,) = diagnostics
    assert found.code == "values-assumed"
    assert "`blocks.0`" in found.message
    assert "aten._local_scalar_dense" in found.message


def test_branching_on_inputs_follows_their_values():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.plain, self.masked = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x, mask):
            return self.plain(x) if mask.all() else self.masked(x)

    for mask, ran in ((torch.ones(4), "plain"), (torch.zeros(4), "masked")):
        trace = trace_model(Masked(), {"x": X, "mask": mask})
        assert [trace.tree.paths[m] for m in trace.order] == ["", ran]


def test_a_model_without_inputs_is_one_note():
    with pytest.raises(PlanError) as caught:
        trace_model(Chain())
    assert [d.code for d in caught.value.diagnostics] == ["no-example-inputs"]


def test_inputs_in_words():
    args, kwargs = parse_inputs("float32[1,3,8,8]; mask=bool[1, 8]", Diagnostics())
    assert [tuple(tensor.shape) for tensor in args] == [(1, 3, 8, 8)]
    assert kwargs["mask"].dtype is torch.bool
    assert kwargs["mask"].shape == (1, 8)


@pytest.mark.parametrize(
    "text",
    ["", "int64", "x=int65[1]", "x=int64[1,-1]", "x=int64[1],x=int64[2]", "float32[99999999,99999999]"],
)
def test_inputs_that_are_none_are_errors(text):
    diagnostics = Diagnostics()
    assert parse_inputs(text, diagnostics) is None
    assert {d.code for d in diagnostics} == {"bad-example-input"}


def test_text_inputs_trace_a_model():
    trace = trace_model(small_model("llama"), "input_ids=int64[3,7]")
    assert trace.logits
    assert trace.values[trace.logits[0]].own_nbytes == 3 * 7 * 500 * 4


def test_the_cache_of_a_layer_is_two_tensors_for_each_token():
    found = cache_demands(trace_model(small_model("llama"), batch=2, seq=10))
    assert [demand.path for demand in found] == [f"model.layers.{i}.self_attn" for i in range(2)]
    assert {demand.nbytes for demand in found} == {2 * 2 * 10 * 2 * 16 * 4}


def test_layers_with_a_window_keep_a_window_and_the_whole_of_a_longer_prompt_until_the_next_token():
    model = small_model("gemma2", sliding_window=8)

    def kept(prompt):
        found = try_moments(model, None, Diagnostics(), seq=prompt, total=64)
        return [demand.nbytes for demand in cache_demands(found.main, found.cache_nbytes)]

    window, full = kept(4)
    assert window < full // 4
    window, full = kept(60)
    assert full * 60 // 64 <= window < full


def test_scores_are_a_demand_of_the_head_in_both_widths():
    model = small_model("llama").to(torch.bfloat16)
    found = [d for d in demands(Moments(trace_model(model, batch=4, seq=8))) if d.purpose == "logits"]
    assert [(d.path, d.nbytes) for d in found] == [("lm_head", 4 * 8 * 500 * (2 + 4))]


def test_activations_are_demands_of_the_pieces():
    found = {d.path: d.nbytes for d in demands(Moments(trace_model(small_model("llama"), seq=16)))}
    assert found["model.layers.0"] >= 16 * 128 * 4
    assert "model.layers.0.mlp" not in found

"""What a trace says of the work of each piece, and what a plan does with it."""

from __future__ import annotations

from collections import Counter

import torch
from compile_plan.compiler import compile_model
from compile_plan.compiler.tracing import trace_model
from compile_plan.compiler.tracing.cuts import Cuts
from compile_plan.compiler.tracing.trace import Op
from compile_plan.compiler.tracing.work import tokens_of, work
from compile_plan.grammar import parse, print_plan
from compile_plan.ir import Work
from small_models import small_model
from tiny_modules import Chain, Residual, Stack
from torch import nn


def rows(model, inputs):
    trace = trace_model(model, inputs)
    return [(row.path, row.flops, row.tokens) for row in work(trace, Cuts(trace).settle())]


def test_every_part_that_may_be_elsewhere_has_a_row():
    x, one = torch.zeros(2, 4), 2 * 2 * 4 * 4
    inside = [f"blocks.{block}.{part}" for part in ("up", "down") for block in range(2)]
    assert rows(Stack(Residual, 2), x) == [(path, one, 0) for path in inside]
    assert rows(Chain(), x) == [("first", one, 0), ("second", one, 0)]


def test_a_table_computes_nothing_and_the_tokens_are_what_is_looked_up():
    model = nn.Sequential(nn.Embedding(50, 4), nn.Linear(4, 3))
    tokens = torch.zeros(2, 7, dtype=torch.int64)
    assert rows(model, tokens) == [("0", 0, 14), ("1", 2 * 14 * 4 * 3, 14)]


def test_tokens_are_counted_at_the_first_table_that_is_fed_from_the_inputs():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.places, self.words = nn.Embedding(9, 4), nn.Embedding(50, 4)
            self.register_buffer("order", torch.arange(9), persistent=False)

        def forward(self, ids):
            ids = torch.where(ids < 0, 0, ids)
            return self.places(self.order)[: ids.shape[1]] + self.words(ids)

    assert tokens_of(trace_model(Model(), torch.zeros(3, 5, dtype=torch.int64))) == 15
    assert tokens_of(trace_model(Chain(), torch.zeros(3, 4))) == 0


def test_the_work_of_a_language_model_is_two_operations_a_weight_and_token():
    model = small_model("llama", tie_word_embeddings=False)
    plan = compile_model(model, max_memory={0: "1GiB"}, batch=2, seq=16)
    by_path = {row.path: row for row in plan.work}
    assert {row.tokens for row in plan.work} == {32}
    head = model.lm_head.weight.numel()
    product = 4  # its weight turned, rows laid flat, multiplied, laid back
    assert by_path["lm_head"] == Work(2 * head * 32, "lm_head", 32, product)
    assert by_path["model.embed_tokens"].flops == 0
    linear = sum(m.weight.numel() for m in model.model.layers[0].modules() if isinstance(m, nn.Linear))
    attention = 2 * 2 * 4 * 16 * 16 * 16 * 2  # two products, heads, length by length, head size, batch
    layer = [row for row in plan.work if f"{row.path}.".startswith("model.layers.0.")]
    assert {row.path for row in layer} >= {"model.layers.0.self_attn", "model.layers.0.mlp"}
    assert sum(row.flops for row in layer) == 2 * linear * 32 + attention


def test_launches_are_the_operations_torch_is_asked_for_each_told_once():
    model = small_model("llama", tie_word_embeddings=False)
    ids = {"input_ids": torch.zeros(1, 8, dtype=torch.int64)}
    trace = trace_model(model, ids)
    told = [*work(trace, Cuts(trace).settle())]
    counted = Counter(step.call for step in trace.steps if isinstance(step, Op))
    assert sum(row.launches for row in told) == counted.total() > 100
    blocks = {tuple(sorted(_inside(told, f"model.layers.{layer}."))) for layer in range(2)}
    assert len(blocks) == 1


def _inside(told, prefix):
    return [(row.path.removeprefix(prefix), row.launches) for row in told if row.path.startswith(prefix)]


def test_plans_keep_their_work_as_text():
    plan = compile_model(small_model("llama"), max_memory={0: "1GiB"}, batch=1, seq=8)
    assert plan.work
    assert parse(print_plan(plan)).work == plan.work


def test_latency_computes_the_table_where_it_lies_once_it_is_known_to_compute_nothing():
    model = small_model("llama", vocab_size=40_000, hidden_size=256, tie_word_embeddings=False)
    wish = {"max_memory": {0: "60MiB", "cpu": "1GiB"}, "objective": "latency", "offload": "auto"}
    traced = compile_model(model, **wish, batch=1, seq=16)
    (table,) = [unit for unit in traced.units if unit.path == "model.embed_tokens"]
    assert (table.store, table.run) == ("cpu", "cpu")
    assert {unit.store for unit in traced.units if "layers" in unit.path} == {"cuda:0"}

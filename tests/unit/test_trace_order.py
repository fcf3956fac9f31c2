from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from compile_plan.compiler import compile_model, load_model, verify_plan
from compile_plan.compiler.sources.live import lower_model
from compile_plan.compiler.tracing import trace_model
from compile_plan.compiler.tracing.order import in_execution_order, permuted
from compile_plan.grammar import parse, print_plan
from compile_plan.ir import verify
from hypothesis import given
from hypothesis import strategies as st
from rounding import same_outputs
from small_models import CONFIGS, small_model
from tiny_modules import Residual
from torch import nn

X = torch.ones(2, 4)
BLOCK = 2 * 4 * (4 * 4 + 4)


class HeadFirst(nn.Module):
    """Registers what it runs last before what it runs first."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 4)
        self.unused = nn.Linear(4, 4)
        self.blocks = nn.ModuleList(Residual() for _ in range(4))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def test_siblings_come_in_the_order_the_forward_reaches_them():
    tree = lower_model(HeadFirst())
    ordered = in_execution_order(tree, trace_model(HeadFirst(), X))
    assert [ordered.paths[m] for m in ordered.children(0)] == ["blocks", "head", "unused"]
    assert sorted(ordered.tensor_paths) == sorted(tree.tensor_paths)
    assert ordered.digest != tree.digest


def test_a_tree_that_is_in_order_is_the_same_object():
    model = nn.Sequential(Residual(), Residual())
    tree = lower_model(model)
    assert in_execution_order(tree, trace_model(model, X)) is tree


def test_placing_follows_execution():
    model = HeadFirst()
    budgets = {0: 2 * BLOCK + 300, 1: 10_000}
    traced = compile_model(model, max_memory=budgets, example_inputs=X)
    assert [unit.run for unit in traced.units] == sorted(unit.run for unit in traced.units)
    assert [unit.path for unit in traced.units][-2:] == ["head", "unused"]
    between = [copy.path for copy in verify_plan(traced, model, X).copies]
    assert between == [
        "blocks.0",
        "blocks.3",
    ]  # from where what is registered first is, and once between cards
    assert traced.outcome.hops == 2
    assert traced.model.digest == lower_model(model).digest
    assert verify(traced) == ()
    assert parse(print_plan(traced)) == replace(traced, tree=None, ledger=())


def test_a_plan_in_execution_order_loads():
    model = HeadFirst()
    expected = model(X)
    traced = compile_model(model, max_memory={0: 2 * BLOCK + 300, 1: 10_000}, example_inputs=X)
    load_model(traced, model, devices={"cuda:0": "cpu", "cuda:1": "cpu"})
    assert same_outputs(model(X), expected)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_reordering_a_model_keeps_every_tensor_and_tie(name):
    model = small_model(name)
    tree = lower_model(model)
    _same_model(tree, in_execution_order(tree, trace_model(model, seq=8)))


@given(st.randoms(use_true_random=False))
def test_any_order_of_siblings_is_the_same_model(draw):
    tree = lower_model(small_model("t5"))
    order, stack = [], [0]
    while stack:
        module = stack.pop()
        order.append(module)
        children = tree.children(module)
        draw.shuffle(children)
        stack += children
    shuffled = permuted(tree, order)
    _same_model(tree, shuffled)
    back = permuted(shuffled, [shuffled.module_index[path] for path in tree.paths])
    assert back == tree


def _same_model(tree, other):
    for old, path in enumerate(tree.tensor_paths):
        new = other.tensor_index[path]
        assert (tree.shapes[old], tree.dtypes[old], tree.roles[old]) == (
            other.shapes[new], other.dtypes[new], other.roles[new],
        )  # fmt: skip
        tied = {p for p, s in zip(tree.tensor_paths, tree.storages, strict=True) if s == tree.storages[old]}
        assert tied == {
            p for p, s in zip(other.tensor_paths, other.storages, strict=True) if s == other.storages[new]
        }
    for module, path in enumerate(tree.paths):
        inside = {tree.paths[m] for m in range(module, tree.ends[module])}
        start = other.module_index[path]
        assert inside == {other.paths[m] for m in range(start, other.ends[start])}
        assert tree.classes[module] == other.classes[start]

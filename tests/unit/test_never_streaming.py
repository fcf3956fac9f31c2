"""``never PATTERN on streaming``: what is read past its owner is kept or computed in place."""

from __future__ import annotations

import pytest
import torch
from compile_plan.backends import read_plan, write_plan
from compile_plan.compiler import compile_model, verify_plan
from compile_plan.grammar import parse, print_plan
from compile_plan.ir import STREAMING, Never, PlanError
from tiny_modules import linear
from torch import nn

X = torch.zeros(2, 4)
LAYER = 4 * 4 * 4 + 4 * 4


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.out = linear(), linear()

    def forward(self, x):
        return x + self.out(self.inner(x))


class Rescaling(nn.Module):
    """Reads the weights of its blocks in its own forward, as RWKV does."""

    def __init__(self, count=6):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(count))
        self.head = linear()

    def forward(self, x):
        for block in self.blocks:
            x = block(x) * block.out.weight.abs().max()
        return self.head(x)


@pytest.mark.parametrize("strategy", ["auto", "balanced", "balanced_low_0", "sequential"])
@pytest.mark.parametrize("offload", ["stream", "compute", "auto"])
@pytest.mark.parametrize("share", [0.3, 0.6])
def test_default_plans_of_a_model_that_reads_past_its_children_verify(offload, strategy, share):
    model = Rescaling()
    total = sum(each.nbytes for each in model.parameters())
    budgets = {0: int(total * share) + 400, "cpu": "1MiB"}
    plan = compile_model(model, max_memory=budgets, example_inputs=X, offload=offload, strategy=strategy)
    assert any(isinstance(rule, Never) and rule.device == STREAMING for rule in plan.constraints)
    assert not any(unit.store != unit.run for unit in plan.units if unit.path.startswith("blocks"))
    assert verify_plan(plan, model, X).lawful


def test_the_rule_survives_both_forms(tmp_path):
    model = Rescaling()
    plan = compile_model(model, max_memory={0: "1MiB"}, example_inputs=X)
    rules = [rule for rule in plan.constraints if isinstance(rule, Never)]
    assert rules
    assert [rule for rule in parse(print_plan(plan)).constraints if isinstance(rule, Never)] == rules
    write_plan(plan, tmp_path / "p.msgpack")
    assert read_plan(tmp_path / "p.msgpack") == plan


def test_a_person_may_write_it_and_may_not_contradict_it():
    model, wish = nn.Sequential(*(linear() for _ in range(6))), {0: LAYER + 1, "cpu": "1MiB"}
    plan = compile_model(model, max_memory=wish, overrides="never 3 on streaming\n")
    (unit,) = [each for each in plan.units if each.path == "3"]
    assert unit.store == unit.run
    lines = "never * on streaming\nplace 3 on cpu run on cuda:0\n"
    with pytest.raises(PlanError, match=r"`3` is streamed to `cuda:0`, and `3` may never be"):
        compile_model(model, max_memory=wish, overrides=lines)


def test_a_tied_weight_is_streamed_for_whichever_module_reads_it():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = linear(), linear()
            self.last.weight = self.first.weight

        def forward(self, x):
            return self.last(self.first(x))

    plan = compile_model(Tied(), max_memory={0: "1MiB"}, example_inputs=X)
    assert not [rule for rule in plan.constraints if isinstance(rule, Never)]


def test_a_disk_is_no_place_for_what_is_never_streamed():
    model = Rescaling()
    wish = {0: 400, "cpu": 400, "disk": "1GiB"}
    with pytest.raises(PlanError, match="does-not-fit"):
        compile_model(model, max_memory=wish, example_inputs=X)
    roomy = compile_model(model, max_memory={**wish, "cpu": "1MiB"}, example_inputs=X)
    assert "disk" not in {unit.store for unit in roomy.units}

"""Parts of layers on other devices than their layers: by hand, bound, placed around, replayed."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import transformers
from compile_plan.backends import to_device_map
from compile_plan.compiler import compile_model, verify_plan
from compile_plan.compiler.tracing import trace_model, verify_trace
from compile_plan.compiler.tracing.cuts import Cuts
from compile_plan.compiler.tracing.visitable import visit_rules
from compile_plan.grammar import parse, print_plan
from compile_plan.ir import VISITING, Never, PlanError, homes_of, verify
from random_cuts import random_plan
from small_models import small_model
from torch import nn

EXPERTS = "place **.mlp.experts on cpu\n"
HALF = "place model.layers.0 on cuda:0\nplace model.layers.0.mlp on cuda:1\n"


def visits(plan):
    """Return the visited units with where they run and where they are visited from."""
    units = plan.units
    return {units[u].path: (units[u].run, units[home].run) for u, home in homes_of(plan.tree, units).items()}


@pytest.mark.parametrize("inputs", ["auto", None])
def test_experts_on_the_host_are_visited_from_their_layers(inputs):
    model = small_model("mixtral")
    plan = compile_model(
        model, max_memory={0: "4MiB", "cpu": "10MiB"}, overrides=EXPERTS, example_inputs=inputs
    )
    assert visits(plan) == {f"model.layers.{i}.mlp.experts": ("cpu", "cuda:0") for i in range(2)}
    assert verify(plan) == ()
    seen = verify_plan(plan, model, seq=8)
    assert seen.lawful
    assert seen.hops == 4  # two for each layer
    again = parse(print_plan(plan))
    assert again == plan
    held = {account.device: account.weights for account in plan.ledger}
    sizes = [plan.tree.subtree_bytes(plan.tree.module_index[path]) for path in visits(plan)]
    assert held["cpu"] == sum(sizes)
    assert held["cuda:0"] == sum(plan.tree.nbytes) - sum(sizes) - sum(
        account.buffers for account in plan.ledger
    )


def test_a_checkpoint_folder_needs_no_trace_for_it(tmp_path):
    config = transformers.Qwen3MoeConfig(
        vocab_size=200, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=16, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=48,
    )  # fmt: skip
    transformers.Qwen3MoeForCausalLM(config).save_pretrained(tmp_path)
    (tmp_path / "o.plan").write_text(EXPERTS)
    command = [
        sys.executable,
        "-m",
        "compile_plan.compiler",
        str(tmp_path),
        "--memory",
        "cuda:0=4MiB,cpu=10MiB",
    ]
    command += ["--override", str(tmp_path / "o.plan"), "-o", str(tmp_path / "out.plan")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    plan = parse((tmp_path / "out.plan").read_text())
    assert {unit.path for unit in plan.units if unit.store == "cpu"} == {
        f"model.layers.{i}.mlp.experts" for i in range(2)
    }


def test_half_a_layer_on_another_card():
    model = small_model("llama")
    plan = compile_model(model, max_memory={0: "4MiB", 1: "4MiB"}, overrides=HALF, example_inputs="auto")
    assert visits(plan) == {"model.layers.0.mlp": ("cuda:1", "cuda:0")}
    seen = verify_plan(plan, model, seq=8)
    assert seen.lawful
    assert [copy.path for copy in seen.copies] == ["model.layers.0.mlp"] * 2
    assert to_device_map(plan)["model.layers.0.mlp"] == 1


def test_parts_of_a_streamed_layer_stay_on_the_card_and_are_no_hop():
    lines = "place model.layers.0 on cpu run on cuda:0\nplace model.layers.0.self_attn on cuda:0\n"
    model = small_model("llama")
    plan = compile_model(model, max_memory={0: "4MiB", "cpu": "9MiB"}, overrides=lines, example_inputs="auto")
    assert visits(plan) == {"model.layers.0.self_attn": ("cuda:0", "cuda:0")}
    seen = verify_plan(plan, model, seq=8)
    assert seen.lawful
    assert seen.hops == 0
    layer, attention = (
        plan.tree.subtree_bytes(plan.tree.module_index[path])
        for path in ("model.layers.0", "model.layers.0.self_attn")
    )
    assert dict(seen.streamed) == {"cuda:0": layer - attention}
    assert plan.ledger[0].streaming == layer - attention


class Peeking(nn.Module):
    """Its parts from left to right: visited, read past its call, written into by its call, given more."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Linear(16, 16)
        self.read = nn.Linear(16, 16)
        self.writes = Writing()
        self.closure = Closure(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = x + 1
        total = x + self.plain(x) + self.read(x) @ self.read.weight
        self.writes(total)
        return total + self.closure(x)


class Writing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(16, 16)

    def forward(self, total: torch.Tensor) -> None:
        total.add_(self.inner(total))


class Closure(nn.Module):
    def __init__(self, outer: nn.Module) -> None:
        super().__init__()
        self.__dict__["outer"] = outer
        self.inner = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) + self.outer.seen


def test_a_trace_says_what_cannot_be_visited():
    trace = trace_model(Peeking(), torch.zeros(1, 16))
    rules = list(visit_rules(trace, Cuts(trace).settle()))
    assert rules == [Never(path, VISITING) for path in ("read", "writes", "closure")]
    with pytest.raises(PlanError, match="`read` cannot be visited either"):
        compile_model(
            Peeking(),
            max_memory={0: "9KiB", 1: "9KiB"},
            example_inputs=torch.zeros(1, 16),
            overrides="place read on cuda:1\n",
        )


class Scores(nn.Module):
    """Has a part, and is called for it or not."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


class Exchanging(nn.Module):
    """Puts another module with the same parts in place of one, as big_bird does for short texts."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = Scores(nn.Linear(16, 16))
        self.kept = Scores(nn.Linear(16, 16))
        self.lent = Scores(nn.Linear(16, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.scores = Scores(self.scores.inner)
        return x + self.scores(x) + self.kept(x) + self.lent(x) * self.lent.inner(x)


def test_what_is_not_called_for_its_parts_cannot_be_visited():
    x = torch.zeros(1, 16)
    trace = trace_model(Exchanging(), x)
    rules = list(visit_rules(trace, Cuts(trace).settle()))
    assert rules == [Never(path, VISITING) for path in ("scores", "lent")]
    for seed in range(20):
        assert verify_trace(random_plan(trace, 3, seed), trace).diagnostics == ()
    plan = compile_model(Exchanging(), max_memory={0: "3KiB", 1: "9KiB"}, example_inputs=x)
    assert verify_plan(plan, Exchanging(), x).lawful


class Listed(nn.Module):
    """Holds its weights in lists: of parameters, which it reads itself, and of modules, which it calls."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.ParameterList(nn.Parameter(torch.ones(16, 16)) for _ in range(2))
        self.named = nn.ParameterDict({"bias": nn.Parameter(torch.ones(16))})
        self.deep = nn.ModuleList([nn.ParameterList([nn.Parameter(torch.ones(16))])])
        self.called = nn.ModuleList([nn.Linear(16, 16)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        read = x @ self.rows[0] @ self.rows[1] + self.named["bias"] + self.deep[0][0]
        return x + read + self.called[0](x)


def test_lists_of_parameters_are_read_by_the_module_around_and_cannot_be_visited():
    trace = trace_model(Listed(), torch.zeros(1, 16))
    rules = list(visit_rules(trace, Cuts(trace).settle()))
    assert rules == [Never(path, VISITING) for path in ("rows", "named", "deep", "deep.*")]
    assert all(verify_trace(random_plan(trace, 2, seed), trace).lawful for seed in range(12))


def test_equal_layers_are_told_once():
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(16, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.inner(x) @ self.inner.weight

    trace = trace_model(nn.Sequential(*(Reads() for _ in range(3))), torch.zeros(1, 16))
    assert list(visit_rules(trace, Cuts(trace).settle())) == [Never("*.inner", VISITING)]


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.Sequential(nn.Linear(width, width), nn.Linear(width, width))
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.Linear(2 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm(x))
        return x + self.mlp(self.norm(x))


class Blocks(nn.Module):
    def __init__(self, count: int, width: int = 64) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width) for _ in range(count))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def block_bytes() -> int:
    return sum(parameter.nbytes for parameter in Block(64).parameters())


@pytest.mark.parametrize(("cards", "share"), [(2, 1.72), (3, 1.72), (4, 1.72)])
def test_parts_fill_cards_that_hold_no_further_layer(cards, share):
    x, room = torch.zeros(1, 64), int(block_bytes() * share)
    count = int(cards * share)  # whole layers would leave at least one out
    assert count > cards * int(share)
    plan = compile_model(Blocks(count), max_memory=dict.fromkeys(range(cards), room), example_inputs=x)
    assert visits(plan)
    assert all(unit.store.startswith("cuda") for unit in plan.units)
    assert verify(plan) == ()
    seen = verify_plan(plan, Blocks(count), x)
    assert seen.lawful
    assert not seen.diagnostics

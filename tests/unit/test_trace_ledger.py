"""The ledger is never below the peak the verifier finds, whatever goes where along the cuts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import transformers
from compile_plan.compiler import compile_model
from compile_plan.compiler.placing.ledger import keep_books
from compile_plan.compiler.tracing import Moments, demands, trace_model, verify_plan, verify_trace
from compile_plan.compiler.tracing.sizes import tensor_nbytes
from compile_plan.ir import Device, Model, Plan, Unit
from live_bytes import measured_peak
from random_cuts import random_plan
from small_models import CONFIGS, small_model
from tiny_modules import linear
from torch import nn

X = torch.zeros(2, 4)
DEVICES = tuple(Device(name, None) for name in ("cuda:0", "cuda:1", "cpu", "disk"))


def plan(*units: tuple[str, str]) -> Plan:
    placed = tuple(Unit(path, device, device) for path, device in units)
    return Plan(model=Model("tiny"), devices=DEVICES, units=placed)


class Widening(nn.Module):
    """Needs the most memory in a child that has no weights."""

    def __init__(self):
        super().__init__()
        self.inner, self.act = nn.Linear(4, 256), nn.GELU()

    def forward(self, x):
        return self.act(self.inner(x))


class Attend(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = linear()

    def forward(self, x, first, second, mask):
        return self.inner(x) + first + second + mask.mean()


class Spreading(nn.Module):
    """Hands over views of a little that are large as copies, and several of one tensor."""

    def __init__(self):
        super().__init__()
        self.both, self.parts = nn.Linear(4, 8), nn.ModuleList(Attend() for _ in range(3))
        self.scale = nn.Parameter(torch.ones(64, 4))

    def forward(self, x):
        for part in self.parts:
            first, second = self.both(x).chunk(2, -1)
            x = part(x, first, second, self.scale.expand(8, 64, 4))
        return x


class Fetching(nn.Module):
    """Takes a large weight to where its input is."""

    def __init__(self):
        super().__init__()
        self.table, self.parts = nn.Parameter(torch.ones(512, 4)), nn.ModuleList(linear() for _ in range(3))

    def forward(self, x):
        table = self.table.to(x.device)
        for part in self.parts:
            x = part(x)
        return x + table.to(x.device).mean()


class Preparing(nn.Module):
    """Does the most before the first of its parts, in a module that may be one unit."""

    class Part(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = linear(), linear()

        def forward(self, x):
            return self.second(self.first(x.repeat(64, 1, 1).sum(0)))

    def __init__(self):
        super().__init__()
        self.head, self.parts = linear(), nn.ModuleList(self.Part() for _ in range(2))

    def forward(self, x):
        x = self.head(x)
        for part in self.parts:
            x = part(x)
        return x


TINY = {
    "widening": (nn.Sequential(linear(), Widening(), nn.Linear(256, 4)), torch.zeros(64, 4)),
    "spreading": (Spreading(), torch.zeros(1, 64, 4)),
    "fetching": (Fetching(), torch.zeros(2, 4)),
    "preparing": (Preparing(), torch.zeros(8, 4)),
}
LARGER = {
    "wav2vec2": {
        "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2,
        "conv_dim": [32, 32, 32], "conv_stride": [5, 2, 2], "conv_kernel": [10, 3, 2],
        "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4, "vocab_size": 32,
    },
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "vocab_size": 100},
    "deberta-v2": {
        "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2,
        "vocab_size": 100, "relative_attention": True, "position_biased_input": False,
        "pos_att_type": ["p2c", "c2p"],
    },
}  # fmt: skip


def traced(name: str):
    if name in TINY:
        return trace_model(*TINY[name])
    if name in LARGER:
        config = transformers.AutoConfig.for_model(name, **LARGER[name])
        with torch.device("meta"):
            model = transformers.AutoModel.from_config(config).eval()
        inputs = {"input_values": torch.zeros(1, 4000)} if name == "wav2vec2" else None
        return trace_model(model, inputs, batch=2, seq=16)
    return trace_model(small_model(name), batch=2, seq=16)


@pytest.mark.parametrize("name", [*TINY, *LARGER, *CONFIGS])
def test_the_ledger_covers_the_peak_of_every_placement_along_the_cuts(name):
    trace = traced(name)
    tree = replace(trace.tree, nbytes=tuple(tensor_nbytes(trace.tree)))
    needs = demands(Moments(trace))
    for seed in range(1, 16, 2):  # odd ones leave out what holds nothing, as planners do
        placed = random_plan(trace, 2 + seed % 3, seed, offload=seed % 3 == 1)
        placed = replace(placed, demands=needs, tree=tree)
        totals = {account.device: account.total for account in keep_books(placed, tree).ledger}
        found = verify_trace(replace(placed, ledger=keep_books(placed, tree).ledger), trace)
        assert found.diagnostics == ()
        for peak in found.peaks:
            scalars = 64 if peak.device == "cpu" else 0  # made on the host by a forward's own code
            assert peak.nbytes <= totals[peak.device] + scalars, (seed, peak)


def test_units_that_are_larger_than_the_pieces_are_covered_too():
    trace = traced("preparing")
    tree = replace(trace.tree, nbytes=tuple(tensor_nbytes(trace.tree)))
    units = [("head", "cuda:0"), ("parts.0", "cuda:1"), ("parts.1", "cpu")]
    placed = replace(plan(*units), demands=demands(Moments(trace)), tree=tree)
    totals = {account.device: account.total for account in keep_books(placed, tree).ledger}
    peaks = verify_trace(placed, trace).peaks
    assert all(peak.nbytes <= totals[peak.device] for peak in peaks)
    assert peaks[1].activations >= X.nbytes * 64 * 4


def test_a_copy_of_an_expanded_argument_takes_what_it_shows():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = linear(), Attend()

        def forward(self, x):
            x = self.first(x)
            return self.second(x, x, x, x[:1].expand(100, 4))

    found = verify_plan(plan(("first", "cuda:0"), ("second", "cuda:1")), Net(), X)
    assert [copy.nbytes for copy in found.copies] == [X.nbytes, 100 * 4 * 4]
    assert found.peaks[1].activations >= X.nbytes + 100 * 4 * 4


@pytest.mark.parametrize("name", sorted(CONFIGS))
@pytest.mark.parametrize("offload", ["stream", "compute"])
def test_what_the_planner_makes_of_too_little_memory_runs_within_its_ledger(name, offload):
    model = small_model(name)
    trace = trace_model(model, batch=2, seq=16)
    weights = sum(tensor.nbytes for tensor in model.parameters())
    activations = max(demand.nbytes for demand in demands(Moments(trace)))
    for share in (0.3, 0.6):
        rooms = [int(weights * part) + activations for part in (share, 0.7 * share)]
        budgets = {0: rooms[0], 1: rooms[1], "cpu": 10**10}
        made = compile_model(model, max_memory=budgets, batch=2, seq=16, offload=offload)
        found = verify_trace(made, trace)
        totals = {account.device: account.total for account in made.ledger}
        assert found.diagnostics == ()
        assert all(peak.nbytes <= totals[peak.device] for peak in found.peaks)


@pytest.mark.parametrize("tokens", [24, 128, 512])
def test_latent_attention_on_the_host_is_charged_what_its_kernel_takes(tokens):
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(
        "deepseek_v3", hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4,
        intermediate_size=64, vocab_size=96, kv_lora_rank=16, q_lora_rank=16, qk_nope_head_dim=16,
        qk_rope_head_dim=8, v_head_dim=16, n_routed_experts=4, num_experts_per_tok=2,
        moe_intermediate_size=32, n_group=1, topk_group=1,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    inputs = {"input_ids": torch.zeros(1, tokens, dtype=torch.int64)}
    activations = {}
    for budgets in ({"cpu": 10**9}, {0: 10**9}):
        made = compile_model(model, max_memory=budgets, example_inputs=inputs)
        activations |= {each.device: each.activations + each.kv_cache for each in made.ledger}
    with torch.no_grad():
        measured = measured_peak(model, inputs)
    given = inputs["input_ids"].nbytes
    scores = 4 * tokens * tokens * 4
    assert measured + given <= activations["cpu"] <= 1.2 * (measured + given)
    assert activations["cpu"] - activations["cuda:0"] > scores  # an accelerator's kernel is fused

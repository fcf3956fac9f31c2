"""What only a card can show: streams run beside computing, the ledger holds, nothing runs out of memory.

Skipped where torch finds no card. Models are of the size that tells: a few hundred MiB.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass, replace
from pathlib import Path

import host_models
import host_process
import hosts
import pytest
import torch
import transformers as hf
from compile_plan.compiler import runtime_report
from compile_plan.compiler.loading import load_model, release_model
from compile_plan.ir import Account, Cache, Device, Model, Plan, Unit
from torch import nn

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no card"),
]
MIB = 1 << 20
LAYERS, WIDTH = 8, 1024
DEVICES = (Device("cuda:0", None), Device("cpu", None), Device("disk", None))
IDS = torch.arange(1, 33)[None]
KINDS = {
    "llama": lambda: hf.LlamaForCausalLM(
        hf.LlamaConfig(
            vocab_size=4096, hidden_size=WIDTH, intermediate_size=3 * WIDTH, num_hidden_layers=LAYERS,
            num_attention_heads=16, num_key_value_heads=4,
        )
    ),
    "mixtral": lambda: hf.MixtralForCausalLM(
        hf.MixtralConfig(
            vocab_size=4096, hidden_size=WIDTH, intermediate_size=WIDTH, num_hidden_layers=LAYERS // 2,
            num_attention_heads=16, num_key_value_heads=4, num_local_experts=16, num_experts_per_tok=2,
        )
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Saved:
    """A model in half precision, its folder and what it computes on the card."""

    kind: str
    folder: Path
    expected: torch.Tensor
    one: torch.Tensor
    """For the first token alone."""
    nbytes: int


@pytest.fixture(scope="module", params=list(KINDS), name="saved")
def _saved(request, tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param)
    model = KINDS[request.param]().eval().to(torch.bfloat16)
    model.save_pretrained(folder)
    model.to("cuda:0")
    expected, one = scores(model), scores(model, IDS[:, :1])
    nbytes = sum(tensor.nbytes for tensor in model.parameters())
    del model
    torch.cuda.empty_cache()
    return Saved(request.param, folder, expected, one, nbytes)


def scores(model: nn.Module, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids.to("cuda:0"), use_cache=False).logits.float().cpu()


def loaded(saved: Saved, plan: Plan) -> nn.Module:
    with torch.device("meta"):
        model = KINDS[saved.kind]().eval().to(torch.bfloat16)
    load_model(plan, model, saved.folder, progress=False)
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    return model


def layers_on(store: str, *, streaming: int = 0) -> Plan:
    """Everything on the card, the layers stored elsewhere."""
    units = (Unit("", "cuda:0", "cuda:0"), Unit("model.layers", store, "cuda:0"))
    ledger = (Account("cuda:0", streaming=streaming),) if streaming else ()
    return Plan(Model("on a card"), DEVICES, units=units, ledger=ledger)


@pytest.mark.parametrize("store", ["cuda:0", "cpu", "disk"])
def test_outputs_are_equal(saved, store):
    model = loaded(saved, layers_on(store))
    for _ in range(3):
        assert torch.allclose(scores(model), saved.expected, atol=1e-2)
    release_model(model)


@pytest.mark.parametrize("store", ["cpu", "disk"])
def test_the_card_holds_what_the_ledger_says(saved, store):
    gc.collect()  # models of other tests
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(0)
    model = loaded(saved, layers_on(store))
    stream = model._compile_plan_execution.stream
    streamed = {id(one): one.nbytes for site in stream.sites for one in site.streamed}
    resident = saved.nbytes - sum(streamed.values())
    torch.cuda.reset_peak_memory_stats(0)
    scores(model)
    scores(model)
    activations = 64 * MIB  # with what the library of products works in, 32 MiB
    taken = torch.cuda.max_memory_allocated(0) - before
    assert taken <= resident + stream.supply.budget(torch.device("cuda:0")) + activations


def test_nothing_runs_out_of_memory_within_the_budget(saved):
    model = loaded(saved, layers_on("cpu"))
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    buffer = model._compile_plan_execution.stream.supply.budget(torch.device("cuda:0"))
    budget = torch.cuda.memory_reserved(0) + buffer + 128 * MIB
    torch.cuda.set_per_process_memory_fraction(min(1.0, budget / total), 0)
    try:
        assert torch.allclose(scores(model), saved.expected, atol=1e-2)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, 0)


def test_host_memory_is_registered_at_its_size(saved):
    model = loaded(saved, layers_on("cpu"))
    execution = model._compile_plan_execution
    execution.registering._thread.join()
    blocks = {id(one.block): one.block for site in execution.stream.sites for one in site.streamed}
    assert all(block.pinned for block in blocks.values())
    held = sum(one.nbytes for site in execution.stream.sites for one in site.streamed)
    assert sum(block.nbytes for block in blocks.values()) <= held * 1.01
    assert torch.allclose(scores(model), saved.expected, atol=1e-2)


def test_the_processor_does_not_wait_for_copies(saved):
    """What is put on the card's streams in a forward ends long after the call that put it there."""
    model = loaded(saved, layers_on("cpu"))
    model._compile_plan_execution.registering._thread.join()
    scores(model)
    runtime_report(model)
    scores(model)
    report = runtime_report(model)
    streamed = [site for site in report.sites if site.calls]
    assert sum(site.ahead for site in streamed) >= sum(site.calls for site in streamed) - 1
    assert report.devices[0].nbytes > 0


@pytest.mark.parametrize("store", ["cpu", "disk"])
@pytest.mark.parametrize("cached", [False, True])
def test_chosen_experts_travel_alone(saved, store, cached):
    if saved.kind != "mixtral":
        pytest.skip("a mixture is what has experts")
    experts = [
        Unit(f"model.layers.{i}.mlp.experts", store, "cuda:0", by_rows=True) for i in range(LAYERS // 2)
    ]
    plan = Plan(Model("on a card"), DEVICES, units=(Unit("", "cuda:0", "cuda:0"), *experts))
    if cached:
        plan = replace(plan, caches=(Cache(256 * MIB, ("**.experts",), "cuda:0"),))
    model = loaded(saved, plan)
    assert torch.allclose(scores(model), saved.expected, atol=1e-2)
    runtime_report(model)
    assert torch.allclose(scores(model, IDS[:, :1]), saved.one, atol=1e-2)
    first = runtime_report(model).devices[0]
    chosen = 2 * LAYERS // 2
    assert first.row_hits + first.row_misses == chosen
    assert cached or not first.row_hits
    scores(model, IDS[:, :1])
    again = runtime_report(model).devices[0]
    assert (again.row_hits, again.row_misses) == ((chosen, 0) if cached else (0, chosen))


def test_two_names_for_one_card(saved):
    devices = {"cuda:0": "cuda:0", "cuda:1": "cuda:0"}
    half = tuple(Unit(f"model.layers.{i}", "cuda:1", "cuda:1") for i in range(LAYERS // 4))
    plan = Plan(Model("two"), (*DEVICES, Device("cuda:1", None)), units=(Unit("", "cuda:0", "cuda:0"), *half))
    with torch.device("meta"):
        model = KINDS[saved.kind]().eval().to(torch.bfloat16)
    load_model(plan, model, saved.folder, devices=devices, progress=False)
    assert torch.allclose(scores(model), saved.expected, atol=1e-2)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="two processes have a card each")
def test_two_hosts_with_a_card_each_send_over_nccl(tmp_path):
    model = host_models.saved("llama", tmp_path / "model")
    alone = host_process.written(model, (1, 7, 33), 2, 4)
    layers, tail = host_models.layers_of("llama"), host_models.tail_of("llama")
    job = {
        "do": "generate",
        "folder": str(tmp_path / "model"),
        "plan": hosts.shared_plan(layers, (4, 2), tail, device="cuda:0"),
        "lengths": (1, 7, 33),
        "rows": 2,
        "tokens": 4,
    }
    cards = [{"CUDA_VISIBLE_DEVICES": str(number), "NCCL_DEBUG": "INFO"} for number in range(2)]
    for rank in hosts.run_hosts([job], 2, tmp_path, more=cards):
        assert (rank[0].get("tokens"), rank[0]["device"]) == (alone, "cuda:0")
    assert "NCCL INFO" in (tmp_path / "log-0.txt").read_text(encoding="utf-8")


def test_two_hosts_on_one_card_send_by_host_memory(tmp_path):
    model = host_models.saved("llama", tmp_path / "model")
    alone = host_process.written(model, (7,), 1, 4, (False,))
    layers, tail = host_models.layers_of("llama"), host_models.tail_of("llama")
    plan = hosts.shared_plan(layers, (4, 2), tail, device="cuda:0")
    job = {"do": "generate", "folder": str(tmp_path / "model"), "plan": plan, "lengths": (7,), "rows": 1}
    for rank in hosts.run_hosts([{**job, "tokens": 4, "ways": (False,)}], 2, tmp_path):
        assert (rank[0].get("tokens"), rank[0]["device"]) == (alone, "cuda:0")

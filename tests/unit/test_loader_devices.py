"""The loader on several accelerators, pretended, and which modules bring what is streamed to them."""

from __future__ import annotations

import pytest
import torch
from compile_plan.compiler.loading import load_model
from compile_plan.compiler.loading.moves import entries, moved, start_device
from compile_plan.compiler.running.kinds import kinds_of
from compile_plan.compiler.sources.live import lower_model
from compile_plan.ir import Device, Model, Plan, Unit
from own_process import run_support
from rounding import same_outputs
from safetensors.torch import save_file
from tiny_checkpoints import plan
from torch import nn

MODELS = ["gpt2", "llama", "t5", "bert", "mixtral"]


@pytest.fixture(scope="module", name="loads")
def _loads():
    return run_support("pretended_loads.py", *MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_what_is_loaded_runs_as_the_replay_says_and_computes_the_same(loads, name):
    rows = loads[name]
    runs = {title: got for title, (said, got) in rows.items() if said == "runs"}
    meets = {title: got for title, (said, got) in rows.items() if said == "meets"}
    assert len(runs) >= 8
    assert set(runs.values()) == {"equal"}, runs
    assert len(meets) >= 3
    assert all(got.startswith("meets") for got in meets.values()), meets


def test_modules_that_write_or_hold_tensors_of_their_own_compute_the_same_on_an_accelerator():
    found = run_support("pretended_modules.py")
    assert len(found) == 12
    assert {got for rows in found.values() for got in rows.values()} == {"equal"}, found


class Blocks(nn.Module):
    """Calls what is in its containers, never the containers."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.ModuleDict({"inner": nn.Linear(4, 4)})])
        self.steps = nn.Sequential(nn.Linear(4, 4), nn.ReLU())


def placed(*units):
    tree = lower_model(Blocks())
    devices = tuple(Device(name, None) for name in ("cuda:0", "cuda:1", "cpu"))
    return Plan(Model("blocks"), devices, units=tuple(Unit(p, d, d) for p, d in units), tree=tree), tree


def test_a_container_hands_its_place_to_what_is_called():
    plan, tree = placed(("first", "cuda:0"), ("blocks", "cuda:1"), ("steps", "cpu"))
    live = list(Blocks().modules())
    assert {tree.paths[module]: run for module, run in entries(plan, tree, live)} == {
        "first": "cuda:0",
        "blocks.0": "cuda:1",
        "blocks.1.inner": "cuda:1",
        "steps": "cpu",
        "steps.0": "cpu",
        "steps.1": "cpu",
    }


def test_a_module_in_two_places_is_entered_once():
    plan, tree = placed(("first", "cuda:0"), ("blocks", "cuda:1"))
    one = nn.Linear(4, 4)
    live = [one if isinstance(module, nn.Linear) else module for module in Blocks().modules()]
    assert [run for _, run in entries(plan, tree, live)] == ["cuda:0"]


def test_inputs_start_where_the_first_module_with_tensors_runs():
    plan, tree = placed(("first.weight", "cpu"), ("steps.1", "cpu"), ("blocks", "cuda:1"), ("steps.0", "cpu"))
    assert start_device(plan, tree) == "cuda:1"


def test_moving_changes_nothing_of_the_callers():
    given = {"a": torch.ones(2), "b": [torch.ones(1), 3]}
    there = moved(given, torch.device("meta"))
    assert there["b"][0].is_meta
    assert not given["a"].is_meta
    assert not given["b"][0].is_meta
    assert moved(given, torch.device("cpu")) is given


class Translator(nn.Module):
    """torch's own encoder and decoder, called as it says."""

    def __init__(self):
        super().__init__()
        sizes = {"d_model": 16, "nhead": 2, "dim_feedforward": 32, "dropout": 0.0, "batch_first": True}
        layers = {"num_encoder_layers": 3, "num_decoder_layers": 3}
        self.both = nn.Transformer(**sizes, **layers)

    def forward(self, x):
        return self.both(x, x)


@pytest.fixture(name="translators")
def _translators(tmp_path):
    torch.manual_seed(0)
    real = Translator().eval()
    save_file(real.state_dict(), tmp_path / "model.safetensors")
    with torch.device("meta"):
        model = Translator().eval()
    load_model(plan(Unit("", "disk", "cpu")), model, tmp_path, dtype="float64")
    return real.double(), model


@pytest.mark.parametrize("name", ["encoder", "decoder"])
def test_torchs_own_transformer_brings_a_layer_at_a_time(translators, name):
    real, model = translators
    here = []
    layer = getattr(model.both, name).layers[1]
    layer.register_forward_pre_hook(
        lambda *_: here.append({n for n, p in model.named_parameters() if p.dtype == torch.float64})
    )
    x = torch.ones(1, 4, 16, dtype=torch.float64)
    with torch.no_grad():
        assert same_outputs(model(x), real(x))
    assert here == [{n for n, _ in model.named_parameters() if n.startswith(f"both.{name}.layers.1.")}]


def test_modules_that_read_the_weights_of_their_children_stay_whole():
    class Own(nn.MultiheadAttention):
        pass

    own, layer = Own(8, 2), nn.TransformerDecoderLayer(8, 2)
    modules = [own, layer, layer.self_attn, layer.linear1, nn.TransformerEncoderLayer(8, 2), nn.Sequential()]
    assert kinds_of(enumerate(modules)).closed == {0, 2, 3, 4}

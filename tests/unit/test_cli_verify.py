"""``--verify``, ``--inputs``, ``--batch``: the forward behind a plan, asked for on the command line."""

from __future__ import annotations

import json

import pytest
from command import run_command

torch = pytest.importorskip("torch")

MODEL = """\
import torch
from torch import nn


class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.gate = nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x):
        return self.up(x) * self.gate(x)


def build():
    return nn.Sequential(nn.Linear(64, 64), Gate(), nn.Linear(64, 64))
"""
MEMORY = ("--memory", "cuda:0=40KiB,cuda:1=40KiB,cpu=1MiB")
INPUTS = ("--inputs", "float32[2,64]")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model.py").write_text(MODEL, encoding="utf-8")
    (tmp_path / "torn.plan").write_text(
        "place 1.up.weight on cuda:0\nplace 1.up.bias on cuda:1\n", encoding="utf-8"
    )
    return tmp_path


def test_a_replay_tells_hops_and_peaks(folder):
    result = run_command(["model.py", *MEMORY, *INPUTS, "--verify"], cwd=folder)
    assert result.code == 0, result.err
    assert "replayed: no mix-up; 2 hops with 1.0KiB of activations\n" in result.out
    assert "  cuda:0 peaks at " in result.out
    assert "0B" not in result.out.partition("replayed")[2]


def test_a_replay_tells_what_is_streamed(folder):
    memory = ("--memory", "cuda:0=52KiB,cpu=1MiB")
    result = run_command(["model.py", *memory, *INPUTS, "--offload", "stream", "--verify"], cwd=folder)
    assert result.code == 0, result.err
    assert "  cuda:0 fetches 32.5KiB of weights in one forward\n" in result.out


def test_a_replay_is_data_for_machines(folder):
    result = run_command(["model.py", *MEMORY, *INPUTS, "--verify", "--format", "json"], cwd=folder)
    found = json.loads(result.out)["verification"]
    assert found["hops"] == 2
    assert found["moved_nbytes"] == sum(copy["nbytes"] for copy in found["copies"]) == 1024
    assert {peak["device"] for peak in found["peaks"]} >= {"cuda:0", "cuda:1"}


def test_a_plan_that_mixes_devices_is_not_written(folder):
    result = run_command(
        ["model.py", *MEMORY, "--override", "torn.plan", *INPUTS, "--verify", "-o", "out.plan"], cwd=folder
    )
    assert result.code == 1
    assert not (folder / "out.plan").exists()


def test_without_inputs_a_replay_says_what_to_give(folder):
    result = run_command(["model.py", *MEMORY, "--verify"], cwd=folder)
    assert result.code == 1
    assert result.err.startswith("error[cannot-verify]: there are no example inputs")
    assert "[no-example-inputs]" in result.err


def test_a_plan_alone_has_no_forward(folder):
    run_command(["model.py", *MEMORY, "-o", "made.plan"], cwd=folder)
    result = run_command(["made.plan", "--verify"], cwd=folder)
    assert "error[cannot-verify]: `made.plan` has no forward to replay" in result.err


def test_a_batch_cannot_change_inputs_the_file_gives(folder):
    text = MODEL + "\nexample_inputs = (torch.zeros(2, 64),)\n"
    (folder / "model.py").write_text(text, encoding="utf-8")
    assert run_command(["model.py", *MEMORY, "--verify"], cwd=folder).code == 0
    result = run_command(["model.py", *MEMORY, "--batch", "4"], cwd=folder)
    assert result.code == 1
    assert "`--batch` cannot change the `example_inputs`" in result.err


def test_an_edited_plan_goes_back_with_its_model(folder):
    run_command(["model.py", *MEMORY, "-o", "made.plan"], cwd=folder)
    text = (folder / "made.plan").read_text(encoding="utf-8")
    assert "place 2 on cuda:1" in text
    edited = text.replace("place 2 on cuda:1", "place 2 on cpu run on cuda:1")
    (folder / "edited.plan").write_text(edited, encoding="utf-8")
    result = run_command(["model.py", "--override", "edited.plan", "-o", "again.plan", "-q"], cwd=folder)
    assert result.code == 0, result.err
    again = (folder / "again.plan").read_text(encoding="utf-8")
    assert "place 2 on cpu run on cuda:1" in again
    assert "device cuda:0 memory 40KiB" in again


def test_inputs_for_a_config_are_made_from_it(tmp_path):
    pytest.importorskip("transformers")
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 32,
        "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "vocab_size": 96,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    ask = [".", "--memory", "cuda:0=1MiB,cpu=1MiB", "--format", "json", "--verify"]
    small, large = (
        json.loads(run_command([*ask, "--batch", batch, "--seq", "16"], cwd=tmp_path).out)
        for batch in ("1", "4")
    )
    account = [found["devices"][0]["ledger"] for found in (small, large)]
    assert account[1]["kv_cache"] == 4 * account[0]["kv_cache"] > 0
    assert account[1]["activations"] > account[0]["activations"] > 0


def test_a_plan_from_headers_states_the_hops_its_replay_saw(tmp_path):
    """Nothing traced when it was placed; rows of two tables are added where only the second one runs."""
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 512, "n_embd": 64, "n_layer": 4, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2}
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).save_pretrained(tmp_path)
    asked = [str(tmp_path), "--memory", "cuda:0=600KiB,cuda:1=500KiB,cpu=1GiB", "--runtime", "0"]

    def hops(*more):
        result = run_command([*asked, *more, "--format", "json"], cwd=tmp_path)
        assert result.code == 0, result.err
        told = json.loads(result.out)
        return told["outcome"]["hops"], told.get("verification", {}).get("hops")

    stated, seen = hops("--verify")
    assert stated == seen
    assert hops()[0] != seen  # the tree alone tells another number, so the case is one

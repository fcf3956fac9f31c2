"""`--try`: a folder is loaded by the plan, goes on from a prompt, and is measured beside the prediction."""

from __future__ import annotations

import json

import pytest
import torch
from command import run_command
from compile_plan.compiler import compile_plan, load_pretrained
from compile_plan.compiler.driver.pretrained import told
from compile_plan.ir import Outcome, Plan, Prediction, Unit
from tiny_checkpoints import DEVICES, TINY, save

WORDS = [f"w{number}" for number in range(90)] + ["once", "upon", "a", "time", "<unk>", "<eos>"]


def with_tokenizer(folder):
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    special = {"unk_token": "<unk>"}
    made = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, **special))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token=WORDS[-1], **special)
    wrapped.save_pretrained(folder)


@pytest.fixture(name="folder")
def _folder(tmp_path):
    model = save(TINY["llama"], tmp_path)
    model.generation_config.eos_token_id = None  # a model at random may end at once
    model.generation_config.save_pretrained(tmp_path)
    with_tokenizer(tmp_path)
    return tmp_path


MEMORY = ("--memory", "cpu=1GiB")


def test_a_folder_is_tried_by_its_plan(folder):
    result = run_command([str(folder), *MEMORY, "--try", "once upon a time"])
    assert result.code == 0, result.err
    tokens = torch.tensor([[90, 91, 92, 93]])
    model = load_pretrained(folder, max_memory={"cpu": "1GiB"})
    written = model.generate(tokens, max_new_tokens=16, do_sample=False, pad_token_id=0)[0, 4:]
    lines = result.out.splitlines()
    assert " ".join(WORDS[token] for token in written) in lines
    assert any(line.startswith("LlamaForCausalLM is loaded: ") for line in lines)
    (measured,) = (line for line in lines if line.startswith("measured: "))
    assert measured.count("(predicted ") == 2
    assert "a prompt of 4 " in measured


def test_what_was_measured_is_told_to_machines(folder):
    plan = folder / "p.plan"
    plan.write_text('device cpu memory 1GiB\ndevice disk memory 1GiB\nplace "" on disk run on cpu\n')
    result = run_command([str(folder), "--override", str(plan), "--try", "once", "--format", "json"])
    assert result.code == 0, result.out
    trial = json.loads(result.out)["trial"]
    assert trial["read"] == 1
    assert trial["written"] == 16
    assert trial["loading"] > 0
    assert trial["token"] > 0
    (device,) = trial["runtime"]["devices"]
    (tier,) = trial["runtime"]["tiers"]
    assert device["device"] == tier["device"] == "cpu"
    assert tier["files"] > 0
    assert tier["pinned"] == 0
    assert {site["calls"] for site in trial["runtime"]["sites"]} == {trial["written"]}
    assert trial["runtime"]["findings"] == []
    told = run_command([str(folder), "--override", str(plan), "--try", "once"]).out
    assert "streamed to cpu: " in told


def codes(result):
    return [found["code"] for found in json.loads(result.out)["diagnostics"]]


def test_what_cannot_be_tried_is_named(tmp_path):
    for name, expected in (("llama", "missing-input"), ("bert", "cannot-try")):
        save(TINY[name], tmp_path / name)
        if name == "bert":
            with_tokenizer(tmp_path / name)
        result = run_command([str(tmp_path / name), *MEMORY, "--try", "once", "--format", "json"])
        assert (result.code, codes(result)) == (1, [expected])
    script = tmp_path / "model.py"
    script.write_text("import torch\nmodel = torch.nn.Linear(2, 2)\n")
    result = run_command([str(script), *MEMORY, "--try", "once", "--format", "json"])
    assert (result.code, codes(result)) == (1, ["cannot-try"])


def test_prompts_a_model_cannot_go_on_from_are_named(folder, tmp_path):
    save(TINY["gpt2"], tmp_path / "gpt2")
    with_tokenizer(tmp_path / "gpt2")
    long = " ".join(["once"] * 300)
    result = run_command([str(tmp_path / "gpt2"), *MEMORY, "--try", long, "--format", "json"])
    assert (result.code, codes(result)) == (1, ["cannot-try"])
    assert "shorter prompt" in result.out
    config = json.loads((folder / "tokenizer.json").read_text())
    config["model"]["vocab"]["once"] = 5000
    (folder / "tokenizer.json").write_text(json.dumps(config))
    result = run_command([str(folder), *MEMORY, "--try", "once", "--format", "json"])
    assert (result.code, codes(result)) == (1, ["cannot-try"])
    assert "tokenizer" in result.out


def test_a_plan_for_another_machine_is_refused_with_help_a_command_can_follow(folder):
    memory = ("--memory", "cuda:7=1GiB,cpu=1GiB")
    result = run_command([str(folder), *memory, "--try", "once", "--format", "json"])
    (found,) = json.loads(result.out)["diagnostics"]
    assert found["code"] == "absent-device"
    assert "--memory" in found["help"]


def test_a_paragraph_says_what_went_where_and_how_fast(tmp_path):
    save(TINY["llama"], tmp_path)
    plan = compile_plan(tmp_path, max_memory={"cpu": "1GiB"})
    units = (
        Unit("", "cuda:0", "cuda:0"),
        Unit("model.layers.0", "cpu", "cuda:0"),
        Unit("model.layers.1", "disk", "cpu"),
    )
    outcome = Outcome("latency", 0.0, 0.0, "kept", predicted=Prediction(0.5, 0.02, "", "link to cuda:0"))
    plan = Plan(plan.model, DEVICES, units=units, tree=plan.tree, outcome=outcome)
    words = told(plan, torch.nn.Identity())
    assert words.startswith("Identity is loaded: ")
    for part in (" on cuda:0, ", " on cpu, streamed to cuda:0, ", " on disk, read while it runs; "):
        assert part in words
    assert "predicted: 20 ms a token (link to cuda:0), prompt 500 ms" in words

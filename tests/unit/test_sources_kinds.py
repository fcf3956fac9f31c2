"""What an input is, models from a config.json, and GGUF files."""

from __future__ import annotations

import builtins
import json
import os
import socket
import subprocess
import sys

import pytest
import torch
from checkpoints import write_file
from compile_plan.backends import read_plan
from compile_plan.compiler import compile_plan
from compile_plan.compiler.cli.command import main
from compile_plan.compiler.sources.config import build_from_config, warn_of_quantised
from compile_plan.compiler.sources.gguf_file import read_gguf
from compile_plan.compiler.sources.input_kinds import InputKind, kind_of
from compile_plan.ir import Atomic, Diagnostics, PlanError
from tiny_gguf import write_gguf

TINY = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "dtype": "bfloat16",
}


def kind(spec):
    diagnostics = Diagnostics()
    return kind_of(spec, diagnostics), list(diagnostics)


def config(folder, content):
    folder.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "config.json").write_text(text)
    return folder


def failure(call, *arguments):
    with pytest.raises(PlanError) as caught:
        call(*arguments)
    (finding,) = caught.value.diagnostics
    return finding


@pytest.fixture
def without(monkeypatch):
    """Make one package impossible to import."""

    def hide(package):
        real = builtins.__import__

        def refuse(name, *more):
            if name.partition(".")[0] == package:
                raise ImportError(name)
            return real(name, *more)

        monkeypatch.setattr(builtins, "__import__", refuse)

    return hide


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.py", InputKind.SCRIPT),
        ("a.safetensors", InputKind.CHECKPOINT),
        ("model.safetensors.index.json", InputKind.CHECKPOINT),
        ("a.plan", InputKind.PLAN_TEXT),
        ("a.msgpack", InputKind.PLAN_FILE),
        ("map.json", InputKind.DEVICE_MAP),
        ("a.gguf", InputKind.GGUF),
    ],
)
def test_the_suffix_decides(tmp_path, name, expected):
    (tmp_path / name).write_text("")
    assert kind(tmp_path / name) == (expected, [])


def test_a_factory_after_the_colon_is_a_script(tmp_path):
    (tmp_path / "model.py").write_text("")
    assert kind(f"{tmp_path / 'model.py'}:build") == (InputKind.SCRIPT, [])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"model_type": "llama"}', InputKind.CONFIG),
        ('{"": 0}', InputKind.DEVICE_MAP),
        ('{"a": 0, "b": "cpu"}', InputKind.DEVICE_MAP),
        ('{"a": [1]}', InputKind.CONFIG),
        ("{", InputKind.CONFIG),
    ],
)
def test_a_config_json_is_looked_into(tmp_path, content, expected):
    folder = config(tmp_path, content)
    assert kind(folder / "config.json") == (expected, [])


def test_a_configuration_under_another_name_is_no_device_map(tmp_path):
    """transformers reads ``config.json`` alone; what helps works as it is pasted."""
    file = tmp_path / "my llama.json"
    file.write_text('{"model_type": "llama", "tie_word_embeddings": false}')
    found, (said,) = kind(file)
    assert (found, said.code, "another name" in said.message) == (None, "unknown-input", True)
    subprocess.run(said.help.split("`")[1], shell=True, check=True)  # noqa: S602 - as pasted
    assert kind(tmp_path / "my llama") == (InputKind.CONFIG, [])


def test_a_folder_is_what_it_holds(tmp_path):
    folder = config(tmp_path / "m", TINY)
    assert kind(folder) == (InputKind.CONFIG, [])
    write_file(folder / "model.safetensors", {"a": ("F32", (2,))})
    assert kind(folder) == (InputKind.CHECKPOINT, [])


@pytest.mark.parametrize(
    ("inner", "help_"), [("a.gguf", "a.gguf"), ("pytorch_model.bin", "save_pretrained"), (None, "download")]
)
def test_a_folder_without_a_model(tmp_path, inner, help_):
    if inner:
        (tmp_path / inner).write_text("")
    found, (finding,) = kind(tmp_path)
    assert (found, finding.code) == (None, "unknown-input")
    assert help_ in finding.help


@pytest.mark.parametrize(
    ("name", "help_"), [("weights.bin", "safetensors"), ("notes.txt", None), ("README", None)]
)
def test_other_files_are_no_input(tmp_path, name, help_):
    (tmp_path / name).write_text("")
    found, (finding,) = kind(tmp_path / name)
    assert (found, finding.code) == (None, "unknown-input")
    assert ".safetensors" in finding.notes[0]
    assert finding.help is None if help_ is None else help_ in finding.help


@pytest.mark.parametrize("text", ["{oops", "", "[" * 100_000])
def test_a_configuration_beside_weights_that_cannot_be_read_is_an_error(tmp_path, text):
    write_file(tmp_path / "model.safetensors", {"a": ("F32", (2,))})
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(PlanError) as caught:
        compile_plan(tmp_path)
    assert [found.code for found in caught.value.diagnostics] == ["invalid-config"]


def test_a_misspelled_file_gets_a_suggestion(tmp_path):
    (tmp_path / "model.py").write_text("")
    found, (finding,) = kind(tmp_path / "modle.py")
    assert (found, finding.code) == (None, "missing-input")
    assert finding.help == f"did you mean `{tmp_path / 'model.py'}`?"


@pytest.mark.parametrize(
    ("name", "help_"),
    [
        ("owner/model-3.1-8B", "`hf download owner/model-3.1-8B --local-dir model-3.1-8B`"),
        ("owner/model.safetensors", None),
        ("~/model", None),
        ("model", None),
    ],
)
def test_a_name_of_the_hub_is_told_from_a_path(tmp_path, monkeypatch, name, help_):
    monkeypatch.chdir(tmp_path)
    (finding,) = kind(name)[1]
    assert finding.code == "missing-input"
    assert finding.help is None if help_ is None else help_ in finding.help


@pytest.mark.parametrize("name", ["nowhere/model.py", "", "x" * 5000 + ".py", "a\0b.py"])
def test_what_is_not_there_is_an_error(tmp_path, name):
    found, (finding,) = kind(str(tmp_path / "none") + name)
    assert found is None
    assert finding.code in {"missing-input", "unreadable-input"}
    assert len(finding.message) < 400


def test_a_config_becomes_a_model_without_weights(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network was used"))
    model = build_from_config(config(tmp_path / "m", TINY))
    assert type(model).__name__ == "LlamaForCausalLM"
    assert {(str(p.dtype), p.device.type) for p in model.parameters()} == {("torch.bfloat16", "meta")}
    again = build_from_config(tmp_path / "m" / "config.json")
    assert list(again.state_dict()) == list(model.state_dict())


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ({key: value for key, value in TINY.items() if key != "architectures"}, "LlamaForCausalLM"),
        (TINY | {"architectures": ["LlamaModel"]}, "LlamaModel"),
        (
            {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
            "ViTModel",
        ),
    ],
)
def test_the_class_is_the_one_named_or_the_usual_one(tmp_path, content, name):
    pytest.importorskip("transformers")
    assert type(build_from_config(config(tmp_path, content))).__name__ == name


def test_a_constructor_that_computes_small_values_is_built(tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    real = transformers.LlamaModel.__init__

    def computes(self, config):
        self.rate = torch.linspace(0, 1, 4)[1].item()
        real(self, config)

    monkeypatch.setattr(transformers.LlamaModel, "__init__", computes)
    model = build_from_config(config(tmp_path, TINY))
    assert model.model.rate == pytest.approx(1 / 3, rel=0.01)
    assert {p.device.type for p in model.parameters()} == {"meta"}


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("{", "invalid-config"),
        ("[]", "invalid-config"),
        ({"hidden_size": 3}, "invalid-config"),
        ({"model_type": 3}, "invalid-config"),
        (TINY | {"num_hidden_layers": 2**31}, "invalid-config"),
        (TINY | {"vision_config": {"depths": [2, 2**31]}}, "invalid-config"),
        (TINY | {"num_labels": 10**9}, "invalid-config"),
        (TINY | {"layers_per_block": 2**31}, "invalid-config"),
        (TINY | {"n_routed_experts": 2**31}, "invalid-config"),
        (TINY | {"text_config": {"model_type": {}}}, "invalid-config"),
        ({"model_type": "no-such-model"}, "config-failed"),
        (TINY | {"hidden_size": 17}, "config-failed"),
        ({"model_type": "mine", "auto_map": {"AutoConfig": "evil.Config"}}, "remote-code-refused"),
    ],
)
def test_a_config_that_cannot_be_built(tmp_path, content, code):
    pytest.importorskip("transformers")
    (tmp_path / "evil.py").write_text("raise SystemExit('run')")
    finding = failure(build_from_config, config(tmp_path, content))
    assert finding.code == code
    assert finding.help or finding.notes or code == "invalid-config"


def test_no_default_of_a_configuration_is_odd(tmp_path):
    transformers = pytest.importorskip("transformers")
    read, odd = [], {}
    for kind, build in transformers.CONFIG_MAPPING.items():
        try:
            content = {**build().to_dict(), "model_type": kind}
        except Exception:  # noqa: BLE001, S112  # of a part without which it has no default
            continue
        read.append(kind)
        try:
            warn_of_quantised(config(tmp_path, json.dumps(content, default=str)), Diagnostics())
        except PlanError as error:
            odd[kind] = [found.message for found in error.diagnostics]
    assert not odd
    assert {"doge", "gemma3n", "llama"} <= set(read)


def test_sizes_and_distances_are_no_counts(tmp_path):
    sizes = {"vocab_size_per_layer_input": 262144, "layer_rope_theta": [5e5], "max_depth": 1e5}
    build_from_config(config(tmp_path, TINY | sizes | {"num_experts": 1 << 20}))


CUSTOM = """
from transformers import PretrainedConfig, PreTrainedModel
import torch

class Config(PretrainedConfig):
    model_type = "mine"

class Model(PreTrainedModel):
    config_class = Config
    def __init__(self, config):
        super().__init__(config)
        self.linear = torch.nn.Linear(2, 3)
        self.post_init()
"""


def test_code_of_its_own_runs_only_when_allowed(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path / "cache"))
    content = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}}
    folder = config(tmp_path / "m", content)
    (folder / "mine.py").write_text(CUSTOM)
    assert failure(build_from_config, folder).code == "remote-code-refused"
    model = build_from_config(folder, trust_remote_code=True)
    assert model.linear.weight.device.type == "meta"


def test_a_folder_without_a_config(tmp_path):
    assert failure(build_from_config, tmp_path).code == "missing-input"
    assert failure(build_from_config, tmp_path / "nothing").code == "missing-input"


def test_without_transformers_the_command_is_given(tmp_path, without):
    without("transformers")
    finding = failure(build_from_config, config(tmp_path, TINY))
    assert finding.code == "missing-extra"
    assert finding.help == "run `pip install 'compile-plan[hub]'`"


def test_a_gguf_file_is_a_plan_of_its_packed_bytes(tmp_path):
    plan = read_gguf(write_gguf(tmp_path / "tiny.gguf"), Diagnostics()).plan
    tree = plan.tree
    assert [tree.names[i] for i in tree.children(0)] == ["token_embd", "blk", "output_norm", "output"]
    assert plan.constraints == (Atomic("blk.*"),)
    embedding, packed = tree.tensor_index["token_embd.weight"], tree.tensor_index["blk.1.attn_q.weight"]
    assert (tree.dtypes[embedding], tree.shapes[embedding]) == ("float32", (32, 64))
    assert (tree.dtypes[packed], tree.nbytes[packed]) == ("uint8", 64 * 68)
    assert sum(tree.nbytes) == 32 * 64 * 6 + 4 * 64 * 4 + 6 * 64 * 68


def test_a_gguf_file_goes_through_the_command(tmp_path, capsys):
    path, written = write_gguf(tmp_path / "tiny.gguf"), tmp_path / "out.msgpack"
    budgets = ["--memory", "cuda:0=16KiB,cuda:1=1MiB,cpu=1MiB", "--cache-tokens", "10"]
    assert main([str(path), "-q", *budgets, "-o", str(written)]) == 0
    stores = {unit.path: unit.store for unit in read_plan(written).units}
    assert (stores["token_embd"], stores["output"]) == ("cuda:0", "cuda:1")
    assert main([str(path), *budgets]) == 0
    assert "warning[unknown-cache]" in capsys.readouterr().err


def gguf_code(path):
    return failure(read_gguf, path, Diagnostics()).code


def test_gguf_files_that_are_wrong(tmp_path):
    pytest.importorskip("gguf")
    assert gguf_code(tmp_path / "nothing.gguf") == "missing-input"
    assert gguf_code(tmp_path) == "unreadable-input"
    path = tmp_path / "a.gguf"
    path.write_bytes(b"PK\3\4")
    assert gguf_code(path) == "invalid-checkpoint"
    content = write_gguf(tmp_path / "tiny.gguf").read_bytes()
    for length in (4, 8, 24, 60, 200, len(content) // 2):
        path.write_bytes(content[:length])
        assert gguf_code(path) == "invalid-checkpoint", length


def test_without_the_package_the_command_is_given(tmp_path, without):
    without("gguf")
    finding = failure(read_gguf, tmp_path / "a.gguf", Diagnostics())
    assert finding.code == "missing-extra"
    assert finding.help == "run `pip install 'compile-plan[gguf]'`"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize(
    ("pipe", "given"),
    [
        ("model.safetensors", "."),
        ("model.safetensors", "model.safetensors"),
        ("model.safetensors.index.json", "."),
        ("config.json", "config.json"),
        ("weights.gguf", "weights.gguf"),
    ],
)
def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(pipe, given, tmp_path):
    if given.endswith(".gguf"):
        pytest.importorskip("gguf")
    os.mkfifo(tmp_path / pipe)
    command = [sys.executable, "-m", "compile_plan.compiler", str(tmp_path / given), "--memory", "cpu=1GiB"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "it is not a regular file" in done.stderr

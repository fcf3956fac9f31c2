"""Checkpoints through the command: placed as the live model, loadable, and never a traceback."""

from __future__ import annotations

import json
import struct
import subprocess
import sys

import pytest
import torch
import transformers
from checkpoints import llama_tensors, write_raw, write_shards
from compile_plan.backends import read_plan
from compile_plan.compiler import compile_model, load_model
from compile_plan.compiler.cli.command import main
from rounding import same_outputs

BUDGETS = ["--memory", "cuda:0=1GiB,cpu=1GiB"]
SMALL = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}
WORDS = {"vocab_size": 96, "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
ENCODED = {"encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
MODELS = {
    "bart": {**ENCODED, "d_model": 32, "encoder_attention_heads": 4, "decoder_attention_heads": 4, **WORDS},
    "bert": {**SMALL, **WORDS, "is_decoder": True},
    "bloom": {"n_layer": 4, "n_head": 4, "hidden_size": 32, **WORDS},
    "dinov2": {**SMALL, "image_size": 32, "patch_size": 8},
    "deepseek_v3": {
        **SMALL,
        **WORDS,
        "kv_lora_rank": 8,
        "q_lora_rank": 8,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 8,
        "v_head_dim": 8,
        "n_routed_experts": 4,
        "first_k_dense_replace": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "n_group": 1,
        "topk_group": 1,
    },
    "falcon": {**SMALL, **WORDS},
    "gemma2": {**SMALL, **WORDS, "num_key_value_heads": 2, "head_dim": 8},
    "gpt2": {"n_embd": 32, "n_layer": 4, "n_head": 4, **WORDS},
    "llama": {**SMALL, **WORDS, "num_key_value_heads": 2},
    "lfm2": {**SMALL, **WORDS, "num_key_value_heads": 2, "layer_types": ["conv", "full_attention"] * 2},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 4, "state_size": 8, **WORDS},
    "mistral": {**SMALL, **WORDS, "num_key_value_heads": 2},
    "mixtral": {**SMALL, **WORDS, "num_key_value_heads": 2, "num_local_experts": 2},
    "phi": {**SMALL, **WORDS},
    "qwen2": {**SMALL, **WORDS, "num_key_value_heads": 2},
    "qwen3": {**SMALL, **WORDS, "num_key_value_heads": 2, "head_dim": 8},
    "t5": {"d_model": 32, "num_layers": 4, "num_heads": 4, "d_kv": 8, "d_ff": 64, **WORDS},
    "siglip_vision_model": {**SMALL, "image_size": 32, "patch_size": 8},
}
TEXT = MODELS.keys() - {"bart", "dinov2", "siglip_vision_model", "t5"}
PACKED = {"deepseek_v3", "mixtral"}
"""Experts that are one tensor in memory and many in the file."""


def saved(kind, folder):
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **MODELS[kind])
    factory = "ForCausalLM" if kind in TEXT else "ForSeq2SeqLM" if config.is_encoder_decoder else ""
    model = getattr(transformers, f"AutoModel{factory}").from_config(config).eval()
    model.save_pretrained(folder)
    return model


def places(plan):
    tree = plan.tree
    return {tree.tensor_paths[i]: unit.store for unit in plan.units for i in tree.covered(unit.path)}


@pytest.mark.parametrize("share", [0.8, 0.6])
@pytest.mark.parametrize("kind", MODELS)
def test_a_checkpoint_is_placed_as_its_live_model(tmp_path, kind, share):
    model = saved(kind, tmp_path / "saved")
    size = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    each = int(size * share)
    budgets = ["--memory", f"cuda:0={each},cuda:1={each},cpu=1GiB"]
    assert main([str(tmp_path / "saved"), "-q", *budgets, "-o", str(tmp_path / "plan.msgpack")]) == 0
    told = places(read_plan(tmp_path / "plan.msgpack"))
    live = places(compile_model(model, max_memory={0: each, 1: each, "cpu": "1GiB"}))
    both = told.keys() & live.keys()
    assert {path: told[path] for path in both} == {path: live[path] for path in both}
    assert len(both) > len(live) // 2


@pytest.mark.parametrize("kind", sorted(TEXT - PACKED))
def test_the_plan_of_a_checkpoint_loads_the_model(tmp_path, kind):
    model = saved(kind, tmp_path / "saved")
    half = sum(tensor.nbytes for tensor in model.parameters()) * 6 // 10
    written = str(tmp_path / "plan.msgpack")
    assert main([str(tmp_path / "saved"), "-q", "--memory", f"cpu={half},disk=1GiB", "-o", written]) == 0
    with torch.device("meta"):
        empty = type(model)._from_config(model.config).eval()
    loaded = load_model(written, empty, tmp_path / "saved")
    tokens = torch.ones(1, 6, dtype=torch.long)
    with torch.no_grad():
        assert same_outputs(loaded(tokens).logits, model(tokens).logits)


@pytest.mark.parametrize("kind", sorted(PACKED))
def test_packed_experts_load_into_memory_and_stay_in_pieces_on_disk(tmp_path, kind):
    model = saved(kind, tmp_path / "saved")
    half = sum(tensor.nbytes for tensor in model.parameters()) * 6 // 10
    for budget in ("cpu=1GiB", f"cpu={half},disk=1GiB"):
        written = str(tmp_path / "plan.msgpack")
        assert main([str(tmp_path / "saved"), "-q", "--memory", budget, "-o", written]) == 0
        with torch.device("meta"):
            empty = type(model)._from_config(model.config).eval()
        loaded = load_model(written, empty, tmp_path / "saved")
        tokens = torch.ones(1, 6, dtype=torch.long)
        with torch.no_grad():
            assert same_outputs(loaded(tokens).logits, model(tokens).logits)


def one(name="a.weight", dtype="F32", shape=(2,), offsets=(0, 8)):
    return {name: {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}}


def header(**entries):
    return json.dumps(entries).encode()


HOSTILE = {
    "zero-length": (b"", "truncated-checkpoint"),
    "header-bomb": (struct.pack("<Q", 1 << 60) + b"{}", "invalid-checkpoint"),
    "header-past-the-end": (struct.pack("<Q", 1 << 20) + b"{}", "truncated-checkpoint"),
    "nesting-bomb": (b'{"a":' + b"[" * 100_000, "invalid-checkpoint"),
    "nested-objects": (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, "invalid-checkpoint"),
    "long-number": (b'{"a":' + b"9" * 10_000 + b"}", "invalid-checkpoint"),
    "not-unicode": (b'{"\xff\xfe": 1}', "invalid-checkpoint"),
    "not-an-object": (b"[1, 2]", "invalid-checkpoint"),
    "key-twice": (header(**one())[:-1] + b", " + header(**one())[1:], "duplicate-tensor"),
    "hidden-key": (header(**one()).replace(b'"shape"', b'"shape": [9], "shape"'), "duplicate-tensor"),
    "colon-in-a-name-twice": (
        header(**one("a:b"))[:-1] + b", " + header(**one("a:b"))[1:],
        "duplicate-tensor",
    ),
    "overlap": (header(**one("a"), **one("b", offsets=(4, 12))), "invalid-checkpoint"),
    "before-the-start": (header(**one(offsets=(-8, 0))), "invalid-checkpoint"),
    "enormous-shape": (header(**one(shape=(1 << 62, 1 << 62, 1 << 62))), "invalid-checkpoint"),
    "true-for-one": (header(**one("a", shape=(1, 2)), **one("b", shape=(True, 2))), "invalid-checkpoint"),
    "fraction": (header(**one(shape=(2.0,))), "invalid-checkpoint"),
    "unknown-dtype": (header(**one(dtype="I4", offsets=(0, 1))), "unknown-tensor-dtype"),
    "half-a-byte": (header(**one(dtype="F4", shape=(1,), offsets=(0, 0))), "invalid-checkpoint"),
    "up": (header(**one("a...weight")), "invalid-checkpoint"),
    "out": (header(**one("../weight")), "invalid-checkpoint"),
    "no-name": (header(**one("")), "invalid-checkpoint"),
    "control-character": (header(**one("a\x1b[31m")), "invalid-checkpoint"),
    "lone-surrogate": (header(**one()).replace(b"a.weight", b"\\ud800"), "invalid-checkpoint"),
    "deep": (header(**one(".".join("a" * 5000))), "invalid-checkpoint"),
    "nothing": (b"{}", "empty-model"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_a_coded_error(tmp_path, case, capsys):
    content, code = HOSTILE[case]
    file = tmp_path / "model.safetensors"
    if case.startswith(("zero", "header-")):
        file.write_bytes(content)
    else:
        write_raw(file, content, 0 if case in {"nothing", "half-a-byte"} else 8)
    assert main([str(tmp_path), *BUDGETS, "-o", str(tmp_path / "out.msgpack")]) == 1
    assert f"error[{code}]" in capsys.readouterr().err
    assert not (tmp_path / "out.msgpack").exists()


@pytest.mark.parametrize(
    ("name", "dtype", "shape", "nbytes"),
    [
        ("größe.重み", "F32", (2,), 8),
        ("scalar", "F32", (), 4),
        ("scale", "F8_E8M0", (4,), 4),
        ("packed", "F4", (2, 4), 4),
        ("a:b.weight", "F32", (2,), 8),
        ("a b.weight", "F32", (2,), 8),
    ],
)
def test_an_unusual_tensor_is_placed(tmp_path, name, dtype, shape, nbytes):
    entries = {**one(name, dtype, shape, (0, nbytes)), **one("empty", "F32", (0, 3), (nbytes, nbytes))}
    write_raw(tmp_path / "model.safetensors", header(**entries), nbytes)
    written = tmp_path / "out.plan"
    assert main([str(tmp_path), "-q", *BUDGETS, "-o", str(written)]) == 0
    tree = read_plan(tmp_path / "out.plan").tree
    assert tree is None
    assert main([str(tmp_path), "-q", *BUDGETS, "-o", str(tmp_path / "out.msgpack")]) == 0
    assert set(read_plan(tmp_path / "out.msgpack").tree.tensor_paths) == {name, "empty"}


def test_a_tensor_may_have_the_name_of_a_module(tmp_path):
    entries = {**one("a"), **one("a.b.weight", offsets=(8, 16)), **one("a.b", offsets=(16, 24))}
    write_raw(tmp_path / "model.safetensors", header(**entries), 24)
    written = tmp_path / "out.msgpack"
    assert main([str(tmp_path), "-q", *BUDGETS, "-o", str(written)]) == 0
    assert set(read_plan(written).tree.tensor_paths) == set(entries)


def test_a_loop_of_links_is_unreadable(tmp_path, capsys):
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "model.safetensors")
    assert main([str(tmp_path), *BUDGETS]) == 1
    assert "error[" in capsys.readouterr().err
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert main([str(tmp_path / "loop"), *BUDGETS]) == 1
    assert "error[" in capsys.readouterr().err


def test_an_index_that_leaves_its_folder_is_refused(tmp_path, capsys):
    index = {"weight_map": {"a.weight": "../../secret.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert main([str(tmp_path), *BUDGETS]) == 1
    assert "error[path-outside-folder]" in capsys.readouterr().err


def test_a_config_folder_is_planned_and_its_code_is_not_run(tmp_path, capsys):
    config = transformers.AutoConfig.for_model("llama", **MODELS["llama"])
    config.save_pretrained(tmp_path / "known")
    assert main([str(tmp_path / "known"), "-q", *BUDGETS, "-o", str(tmp_path / "p.msgpack")]) == 0
    assert "model.layers.3.mlp" in read_plan(tmp_path / "p.msgpack").tree.module_index
    foreign = {"model_type": "own", "auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"}}
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "config.json").write_text(json.dumps(foreign))
    (tmp_path / "own" / "code.py").write_text("raise SystemExit('was run')")
    assert main([str(tmp_path / "own"), *BUDGETS]) == 1
    assert "error[remote-code-refused]" in capsys.readouterr().err


@pytest.mark.parametrize("budget", ["cuda:0=1GiB,cpu=1GiB", "cuda:0=3KiB,cpu=1GiB"])
def test_nothing_heavy_is_imported(tmp_path, budget):
    folder = write_shards(tmp_path / "llama", llama_tensors(6), 4)
    heavy = {"torch", "transformers", "lark", "rich", "networkx"}
    heavy |= {"numpy", "highspy"} if "GiB,cpu" in budget else set()  # what spills is solved for time
    code = f"""
import sys
from compile_plan.compiler.cli.command import main
assert main([{str(folder)!r}, "-q", "--memory", {budget!r}, "-o", {str(tmp_path / "p.msgpack")!r}]) == 0
assert not (found := sys.modules.keys() & {heavy!r}), found
"""
    subprocess.run([sys.executable, "-c", code], check=True)

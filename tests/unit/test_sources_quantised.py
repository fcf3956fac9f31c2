"""Quantised weights: exact bytes from files of every usual format, and a word where there are none."""

from __future__ import annotations

import json
from math import prod

import numpy as np
import pytest
from checkpoints import SIZES, write_shards
from compile_plan.backends import read_plan
from compile_plan.compiler.cli.command import main
from compile_plan.compiler.sources.checkpoint import read_checkpoint
from compile_plan.compiler.sources.config import build_from_config, warn_of_quantised
from compile_plan.compiler.sources.gguf_file import read_gguf
from compile_plan.ir import Atomic, Diagnostics

CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 64,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
}
PROJECTIONS = {"q_proj": (256, 256), "k_proj": (128, 256), "v_proj": (128, 256), "o_proj": (256, 256)}


def gptq(out, into):
    groups = into // 128
    return {
        "qweight": ("I32", (into // 8, out)),
        "qzeros": ("I32", (groups, out // 8)),
        "scales": ("F16", (groups, out)),
        "g_idx": ("I32", (into,)),
    }


def awq(out, into):
    groups = into // 128
    return {
        "qweight": ("I32", (into, out // 8)),
        "qzeros": ("I32", (groups, out // 8)),
        "scales": ("F16", (groups, out)),
    }


def fp8(out, into):
    return {"weight": ("F8_E4M3", (out, into)), "weight_scale_inv": ("F32", (out // 128, into // 128))}


def nf4(out, into):
    return {
        "weight": ("U8", (out * into // 2, 1)),
        "weight.absmax": ("U8", (out * into // 64,)),
        "weight.quant_map": ("F32", (16,)),
        "weight.quant_state.bitsandbytes__nf4": ("U8", (120,)),
    }


def packed(out, into):
    return {
        "weight_packed": ("I32", (out, into // 8)),
        "weight_scale": ("BF16", (out, into // 128)),
        "weight_shape": ("I64", (2,)),
    }


def mxfp4(out, into):
    return {"weight_blocks": ("U8", (out, into // 32, 16)), "weight_scales": ("U8", (out, into // 32))}


FORMATS = {
    "gptq": gptq,
    "awq": awq,
    "fp8": fp8,
    "bitsandbytes": nf4,
    "compressed-tensors": packed,
    "mxfp4": mxfp4,
}


def tensors_of(make):
    found = {"model.embed_tokens.weight": ("BF16", (64, 256)), "lm_head.weight": ("BF16", (64, 256))}
    for layer in range(3):
        path = f"model.layers.{layer}"
        found[f"{path}.input_layernorm.weight"] = ("BF16", (256,))
        for name, shape in PROJECTIONS.items():
            found |= {f"{path}.self_attn.{name}.{part}": kind for part, kind in make(*shape).items()}
    return found


def nbytes(tensors):
    return sum(SIZES[dtype] * prod(shape) for dtype, shape in tensors.values())


@pytest.mark.parametrize("method", FORMATS)
def test_a_checkpoint_counts_the_bytes_of_its_files(tmp_path, method):
    tensors = tensors_of(FORMATS[method])
    config = CONFIG | {"quantization_config": {"quant_method": method}}
    folder = write_shards(tmp_path / "model", tensors, 2, config=config)
    diagnostics = Diagnostics()
    plan, _ = read_checkpoint(folder, diagnostics, cache_tokens=10, batch=2)
    assert not list(diagnostics)
    assert sum(plan.tree.nbytes) == nbytes(tensors)
    assert plan.constraints == (Atomic("model.layers.*"),)
    assert [demand.nbytes for demand in plan.demands] == [2 * 2 * 64 * 10 * 2 * 2] * 3


@pytest.mark.parametrize("method", FORMATS)
def test_a_quantised_checkpoint_is_placed_by_layer(tmp_path, method):
    tensors = tensors_of(FORMATS[method])
    folder = write_shards(tmp_path / "model", tensors, 2, config=CONFIG)
    budget, written = nbytes(tensors) * 7 // 10, tmp_path / "plan.msgpack"
    memory = f"cuda:0={budget},cuda:1={budget},cpu=1MiB"
    assert main([str(folder), "-q", "--memory", memory, "-o", str(written)]) == 0
    plan = read_plan(written)
    stores = [unit.store for unit in plan.units]
    assert sorted(set(stores)) == stores[:1] + stores[-1:] == ["cuda:0", "cuda:1"]
    assert sum(account.total for account in plan.ledger) == nbytes(tensors)


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "fp8", "mxfp4", "none-such"])
def test_a_quantised_configuration_without_weights_is_a_warning(tmp_path, method):
    pytest.importorskip("transformers")
    folder = write_config(tmp_path / "model", {"quant_method": method, "bits": 4, "load_in_4bit": True})
    diagnostics = Diagnostics()
    model = build_from_config(folder)
    warn_of_quantised(folder, diagnostics)
    (finding,) = diagnostics
    assert finding.code == "quantised-config"
    assert method in finding.message
    assert {str(parameter.dtype) for parameter in model.parameters()} == {"torch.bfloat16"}


@pytest.mark.parametrize(
    ("said", "method"),
    [
        ({"compression_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors"),
        ({"text_config": CONFIG | {"quantization_config": {"quant_method": "gptq"}}}, "gptq"),
        ({"quantization_config": {"load_in_8bit": True}}, "bitsandbytes"),
        ({"quantization_config": {"bits": 4}}, "a method it does not name"),
        ({"quantization_config": {}}, None),
    ],
)
def test_it_is_said_wherever_a_configuration_tells_it(tmp_path, said, method):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | said))
    diagnostics = Diagnostics()
    warn_of_quantised(tmp_path, diagnostics)
    assert [f"({method})" in finding.message for finding in diagnostics] == [True] * (method is not None)


def write_config(folder, quantised):
    folder = write_shards(folder, {"a": ("U8", (1,))}, 1, config=CONFIG | {"quantization_config": quantised})
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    return folder


def test_the_command_says_it_unless_a_dtype_is_given(tmp_path, capsys):
    pytest.importorskip("transformers")
    folder = str(write_config(tmp_path / "model", {"quant_method": "gptq", "bits": 4}))
    memory = ["--memory", "cuda:0=1GiB"]
    assert main([folder, *memory]) == 0
    assert "warning[quantised-config]" in capsys.readouterr().err
    assert main([folder, *memory, "--dtype", "int4"]) == 0
    assert "quantised-config" not in capsys.readouterr().err


@pytest.mark.parametrize("quantised", ["gptq", ["gptq"], 4])
def test_a_malformed_quantisation_is_no_traceback(tmp_path, quantised, capsys):
    pytest.importorskip("transformers")
    assert main([str(write_config(tmp_path / "model", quantised)), "--memory", "cuda:0=1GiB"]) in {0, 1}
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    assert "internal-error" not in shown


def write_gguf(path, kind, *, heads=(4, 2)):
    gguf = pytest.importorskip("gguf")
    packed = gguf.GGMLQuantizationType[kind]
    block, size = gguf.GGML_QUANT_SIZES[packed]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(3)
    writer.add_embedding_length(256)
    writer.add_head_count(heads[0])
    writer.add_head_count_kv(heads[1])
    writer.add_tensor("token_embd.weight", np.zeros((64, 256), np.float32))
    for layer in range(3):
        for name, out in (("attn_q", 256), ("attn_k", 128), ("attn_v", 128), ("ffn_up", 512)):
            data = np.zeros((out, 256 // block * size), np.uint8)
            writer.add_tensor(f"blk.{layer}.{name}.weight", data, raw_dtype=packed)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, 256 // block * size


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "IQ4_XS", "IQ2_XXS", "TQ1_0"])
def test_a_gguf_file_of_any_packing_has_its_exact_bytes_and_its_cache(tmp_path, kind):
    path, row = write_gguf(tmp_path / "tiny.gguf", kind)
    diagnostics = Diagnostics()
    plan = read_gguf(path, diagnostics).with_room(diagnostics, 300, 2)
    assert not list(diagnostics)
    assert sum(plan.tree.nbytes) == 64 * 256 * 4 + 3 * 1024 * row
    kept = {demand.path: demand.nbytes for demand in plan.demands if demand.purpose == "kv cache"}
    assert kept == {f"blk.{layer}": 2 * 2 * 64 * 512 * 2 * 2 for layer in range(3)}

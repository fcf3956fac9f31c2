"""A GGUF file of three tiny layers, packed as people have them."""

from __future__ import annotations

import numpy as np
import pytest


def write_gguf(path):
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("token_embd.weight", np.zeros((32, 64), np.float32))
    for block in range(3):
        for name in ("attn_q", "ffn_up"):
            packed = np.zeros((64, 68), np.uint8)
            writer.add_tensor(f"blk.{block}.{name}.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(f"blk.{block}.attn_norm.weight", np.zeros(64, np.float32))
    writer.add_tensor("output_norm.weight", np.zeros(64, np.float32))
    writer.add_tensor("output.weight", np.zeros((32, 64), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_llama(
    path, *, layers=4, hidden=256, wide=1024, heads=8, kv_heads=2, experts=0, chosen=2, words=500
):
    """Write a file that llama.cpp loads: a llama of zeros without a tokenizer."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_vocab_size(words)
    writer.add_context_length(32768)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(wide)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(hidden // heads)
    writer.add_tokenizer_model("no_vocab")
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(chosen)
    for name, shape in _tensors(layers, hidden, wide, hidden // heads * kv_heads, experts, words):
        if len(shape) == 1 or "gate_inp" in name:
            writer.add_tensor(name, np.ones(shape, np.float32))
        else:
            packed = np.zeros((*shape[:-1], shape[-1] // 32 * 34), np.uint8)
            writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tensors(layers, hidden, wide, keys, experts, words):
    yield "token_embd.weight", (words, hidden)
    yield "output_norm.weight", (hidden,)
    yield "output.weight", (words, hidden)
    for layer in range(layers):
        attention = {
            "q": (hidden, hidden),
            "k": (keys, hidden),
            "v": (keys, hidden),
            "output": (hidden, hidden),
        }
        names = {"attn_norm": (hidden,), "ffn_norm": (hidden,)}
        names |= {f"attn_{part}": shape for part, shape in attention.items()}
        suffix, stack = ("_exps", (experts,)) if experts else ("", ())
        names |= {f"ffn_{part}{suffix}": (*stack, wide, hidden) for part in ("gate", "up")}
        names |= {f"ffn_down{suffix}": (*stack, hidden, wide)}
        names |= {"ffn_gate_inp": (experts, hidden)} if experts else {}
        for name, shape in names.items():
            yield f"blk.{layer}.{name}.weight", shape

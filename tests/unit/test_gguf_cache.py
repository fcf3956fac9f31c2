"""The KV cache a GGUF file tells: heads of each layer, windows, latents; unknown where it says nothing."""

from __future__ import annotations

import numpy as np
import pytest
from compile_plan.compiler.sources.gguf_file import read_gguf
from compile_plan.ir import Diagnostics
from compile_plan.ir.purposes import KV_CACHE

gguf = pytest.importorskip("gguf")
TOKENS, CELLS, HALF = 3000, 3072, 2


def written(path, family, layers, tensors, **numbers):
    """Write a file with these tensors in each layer, and these numbers under the family's name."""
    writer = gguf.GGUFWriter(path, family)
    for name, value in {"block_count": layers, "embedding_length": 64, **numbers}.items():
        key = f"{family}.{name.replace('__', '.')}"
        if isinstance(value, list):
            writer.add_array(key, value)
        else:
            writer.add_uint32(key, value)
    for layer in range(layers):
        for name in tensors:
            packed = np.zeros((64, 68), np.uint8)
            writer.add_tensor(f"blk.{layer}.{name}.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def cache(path):
    found = Diagnostics()
    plan = read_gguf(path, found).with_room(found, TOKENS)
    return [each.nbytes for each in plan.demands if each.purpose == KV_CACHE], [each.code for each in found]


PLAIN = ("attn_q", "attn_k", "attn_v", "attn_output")
HEADS = {"attention__head_count": 8, "attention__head_count_kv": 2}


def test_keys_and_values_may_differ_in_width(tmp_path):
    widths = {"attention__key_length": 24, "attention__value_length": 16}
    path = written(tmp_path / "a.gguf", "llama", 2, PLAIN, **HEADS, **widths)
    assert cache(path) == ([CELLS * 2 * (24 + 16) * HALF] * 2, [])


def test_each_layer_has_its_own_heads(tmp_path):
    path = written(
        tmp_path / "a.gguf", "openelm", 3, PLAIN, attention__head_count=8,
        attention__head_count_kv=[4, 2, 0], attention__key_length=8, attention__value_length=8,
    )  # fmt: skip
    assert cache(path) == ([CELLS * heads * 16 * HALF for heads in (4, 2)], [])


@pytest.mark.parametrize(
    ("family", "numbers", "windowed"),
    [
        ("gemma2", {}, [True, False, True, False, True, False]),
        ("gemma3", {}, [True] * 5 + [False]),
        ("gpt-oss", {}, [True, False] * 3),
        ("other", {"attention__sliding_window_pattern": [True, True, False] * 2}, [True, True, False] * 2),
        ("llama", {}, [False] * 6),
    ],
)
def test_windows_are_where_the_file_or_its_architecture_says(tmp_path, family, numbers, windowed):
    path = written(
        tmp_path / "a.gguf", family, 6, PLAIN, **HEADS, attention__key_length=8, attention__value_length=8,
        attention__sliding_window=33, **numbers,
    )  # fmt: skip
    per_token = 2 * 16 * HALF
    kept = [(768 if is_windowed else CELLS) * per_token for is_windowed in windowed]
    assert cache(path) == (kept, [])


LATENTS = {
    "attention__head_count": 8, "attention__head_count_kv": 1, "attention__kv_lora_rank": 32,
    "rope__dimension_count": 8, "attention__key_length": 40, "attention__value_length": 32,
}  # fmt: skip


def test_latents_are_kept_as_they_are_where_they_are_attended_to(tmp_path):
    parts = ("attn_q_a", "attn_kv_a_mqa", "attn_k_b", "attn_v_b", "attn_output")
    path = written(tmp_path / "a.gguf", "deepseek2", 2, parts, **LATENTS)
    assert cache(path) == ([CELLS * (32 + 8) * HALF] * 2, [])


def test_latents_that_are_opened_first_are_kept_as_keys_and_values(tmp_path):
    parts = ("attn_q_a", "attn_kv_a_mqa", "attn_kv_b", "attn_output")
    whole = {**LATENTS, "attention__head_count_kv": 8, "attention__key_length": 24}
    path = written(tmp_path / "a.gguf", "deepseek2", 2, parts, **whole)
    assert cache(path) == ([CELLS * 8 * (24 + 32) * HALF] * 2, [])


def test_what_is_not_said_is_unknown(tmp_path):
    path = written(tmp_path / "a.gguf", "llama", 2, PLAIN)
    assert cache(path) == ([], ["unknown-cache"])

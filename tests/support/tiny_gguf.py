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

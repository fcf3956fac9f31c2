"""Safetensors files with headers made to order; the weights are holes in the file."""

from __future__ import annotations

import json
import struct
from pathlib import Path

SIZES = {"BF16": 2, "F16": 2, "F32": 4, "U8": 1, "BOOL": 1, "I32": 4, "I64": 8, "F8_E4M3": 1}


def header_of(tensors):
    """Return the header of tensors ``name -> (dtype, shape)`` laid one after the other, and their bytes."""
    header, at = {}, 0
    for name, (dtype, shape) in tensors.items():
        nbytes = SIZES[dtype]
        for size in shape:
            nbytes *= size
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + nbytes]}
        at += nbytes
    return header, at


def write_raw(path: Path, header: bytes, nbytes: int) -> Path:
    """Write a header and so many zero bytes after it."""
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(header)) + header)
        stream.truncate(8 + len(header) + nbytes)
    return path


def write_file(path: Path, tensors) -> Path:
    """Write a whole file of tensors ``name -> (dtype, shape)``."""
    header, nbytes = header_of(tensors)
    return write_raw(path, json.dumps(header).encode(), nbytes)


def write_shards(folder: Path, tensors, shards: int, *, config=None) -> Path:
    """Write an index and its shards; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    names = list(tensors)
    per_shard = -(-len(names) // shards)
    weight_map = {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = names[number * per_shard : (number + 1) * per_shard]
        write_file(folder / file, {name: tensors[name] for name in part})
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def llama_tensors(layers: int, *, experts: int = 0, head: bool = True, width: int = 8, vocabulary: int = 20):
    """Return the tensors of a Llama-like model in the order of a saved file: alphabetical."""
    tensors = {
        "model.embed_tokens.weight": ("BF16", (vocabulary, width)),
        "model.norm.weight": ("BF16", (width,)),
    }
    if head:
        tensors["lm_head.weight"] = ("BF16", (vocabulary, width))
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        tensors[f"{prefix}input_layernorm.weight"] = ("BF16", (width,))
        for name in ("q", "k", "v", "o"):
            tensors[f"{prefix}self_attn.{name}_proj.weight"] = ("BF16", (width, width))
        feeds = [f"mlp.experts.{e}." for e in range(experts)] or ["mlp."]
        for feed in feeds:
            for name in ("gate", "up", "down"):
                tensors[f"{prefix}{feed}{name}_proj.weight"] = ("BF16", (width, 2 * width))
    return dict(sorted(tensors.items()))

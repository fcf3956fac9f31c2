"""From a checkpoint folder to a plan: the command beside a transformers + accelerate script.

Both are whole processes, run in turn on the same folder after one run each to warm the caches; the
smallest time of each counts. The folder is made here: four shards, 300 tensors. Then without a peer: a
plan from text to msgpack, and an index of 100,000 tensors.
"""

from __future__ import annotations

import argparse
import json
import struct
import subprocess
import sys
import tempfile
import time
from math import prod
from pathlib import Path

PEER = """
import sys, torch
from accelerate import infer_auto_device_map, init_empty_weights
from transformers import AutoConfig, AutoModelForCausalLM
config = AutoConfig.from_pretrained(sys.argv[1])
with init_empty_weights():
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
memory = {**{i: int(room) for i, room in enumerate(sys.argv[2:])}, "cpu": 64 << 30}
print(infer_auto_device_map(model, memory, no_split_module_classes=model._no_split_modules))
"""
LAYERS, WIDTH, WORDS, SHARDS = 33, 64, 1000, 4


def tensors(layers: int = LAYERS, experts: int = 0) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of a small Llama, or of one with experts."""
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (WORDS, WIDTH),
        "model.norm.weight": (WIDTH,),
        "lm_head.weight": (WORDS, WIDTH),
    }
    for layer in range(layers):
        path = f"model.layers.{layer}"
        shapes |= {f"{path}.self_attn.{name}_proj.weight": (WIDTH, WIDTH) for name in "qkvo"}
        for mlp in [f"mlp.experts.{expert}" for expert in range(experts)] or ["mlp"]:
            shapes |= {f"{path}.{mlp}.{name}_proj.weight": (4 * WIDTH, WIDTH) for name in ("gate", "up")}
            shapes[f"{path}.{mlp}.down_proj.weight"] = (WIDTH, 4 * WIDTH)
        shapes |= {f"{path}.{name}_layernorm.weight": (WIDTH,) for name in ("input", "post_attention")}
    return shapes


def write_checkpoint(folder: Path, named: dict[str, tuple[int, ...]]) -> int:
    """Write shards, index and configuration; return the bytes of the weights, which are holes."""
    folder.mkdir()
    shapes = sorted(named.items())
    weight_map, total = {}, 0
    for shard in range(SHARDS):
        header, end = {}, 0
        name = f"model-{shard + 1:05d}-of-{SHARDS:05d}.safetensors"
        for path, shape in shapes[shard * len(shapes) // SHARDS : (shard + 1) * len(shapes) // SHARDS]:
            start, end = end, end + 2 * prod(shape)
            header[path] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
            weight_map[path] = name
        text = json.dumps(header).encode()
        with (folder / name).open("wb") as stream:
            stream.write(struct.pack("<Q", len(text)) + text)
            stream.truncate(8 + len(text) + end)
        total += end
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH}
    config |= {"num_hidden_layers": LAYERS, "num_attention_heads": 4, "intermediate_size": 4 * WIDTH}
    config |= {"vocab_size": WORDS, "tie_word_embeddings": False, "dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config))
    return total


def seconds(command: list[str]) -> float:
    """Return how long a process takes; it must succeed."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def compile_plan(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "compile_plan.compiler", *map(str, arguments)]


def beside_the_peer(folder: Path, total: int, runs: int) -> None:
    """Print both times and their ratio, for budgets that hold the model and budgets that do not."""
    plan = folder.parent / "plan.msgpack"
    budgets = {"fits": [2 * total], "spills": [total * 7 // 10], "two GPUs": [total * 7 // 10] * 2}
    for label, rooms in (budgets | {"two GPUs, spills": [total * 3 // 10, total * 4 // 10]}).items():
        memory = ",".join([*(f"cuda:{i}={room}" for i, room in enumerate(rooms)), "cpu=64GiB"])
        peer = [sys.executable, "-c", PEER, str(folder), *map(str, rooms)]
        ours = compile_plan(folder, "--memory", memory, "-o", plan)
        rounds = [(seconds(ours), seconds(peer)) for _ in range(runs + 1)][1:]
        mine, theirs = (min(times) for times in zip(*rounds, strict=True))
        print(f"{label}: compile-plan {mine:.3f} s, transformers + accelerate {theirs:.2f} s, "
              f"{theirs / mine:.1f} times as fast")  # fmt: skip


def alone(label: str, command: list[str], runs: int) -> None:
    print(f"{label}: {min([seconds(command) for _ in range(runs + 1)][1:]):.3f} s")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--runs", type=int, default=5)
    runs = arguments.parse_args().runs
    with tempfile.TemporaryDirectory() as name:
        small, large, text = (Path(name) / part for part in ("small", "large", "small.plan"))
        total = write_checkpoint(small, tensors())
        beside_the_peer(small, total, runs)
        subprocess.run(compile_plan(small, "--memory", "cuda:0=3MiB,cpu=1GiB", "-o", text), check=True,
                       capture_output=True)  # fmt: skip
        alone("text to msgpack", compile_plan(text, "-o", Path(name) / "x.msgpack"), runs)
        listed = tensors(61, 540)
        write_checkpoint(large, listed)
        memory = ["--memory", "cuda:0=80GiB,cpu=64GiB", "-o", Path(name) / "large.msgpack"]
        alone(f"{len(listed):,} tensors", compile_plan(large, *memory), runs)


if __name__ == "__main__":
    main()

"""What the engines make of what they are told, by their own code as it is installed."""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
from itertools import chain
from types import SimpleNamespace

import pytest
from command import run_command
from compile_plan.backends.engines import ENGINES
from compile_plan.compiler.sources.gguf_file import read_gguf
from compile_plan.grammar import parse
from compile_plan.ir import Diagnostics
from llama_server import LOADED, mebibytes, said
from their_code import installed, their_definition, their_options
from tiny_gguf import write_llama
from torch import nn

LAYERS = 12
TABLE = (
    "plan 1\ndevice cuda:0 memory 24GiB\ndevice cuda:1 memory 12GiB\ndevice cuda:2 memory 24GiB\n"
    "device cpu memory 64GiB\nmodule model.embed_tokens : Embedding 1GiB\n"
    f"module model.layers.{{0..{LAYERS - 1}}} : MixtralDecoderLayer\n"
    f"module model.layers.{{0..{LAYERS - 1}}}.self_attn : Attention 1GiB\n"
    f"module model.layers.{{0..{LAYERS - 1}}}.mlp.experts : Experts 1GiB\n"
    "module model.norm : Norm 1KiB\nmodule lm_head : Linear 1GiB\n"
)


def split_plan(counts, streamed=""):
    """Return a plan with so many layers on each card."""
    places, at = ["place model.embed_tokens on cuda:0\n"], 0
    for card, count in enumerate(counts):
        places.append(f"place model.layers.{{{at}..{at + count - 1}}} on cuda:{card}\n")
        at += count
    last = len(counts) - 1
    places.append(f"place model.norm on cuda:{last}\nplace lm_head on cuda:{last}\n{streamed}")
    return parse(TABLE + "".join(places))


def bounds(counts):
    return [(sum(counts[:rank]), sum(counts[: rank + 1])) for rank in range(len(counts))]


SPLITS = [(12,), (7, 5), (5, 3, 4), (1, 1, 10)]
PERIOD = "".join(
    f"place model.layers.{i} on cpu run on cuda:{0 if i < 8 else 1}\n" for i in range(LAYERS) if i % 4 == 3
)
EXPERTS = "".join(
    f"place model.layers.{i}.mlp.experts on cpu run on cuda:{0 if i < 8 else 1}\n"
    for i in range(3, LAYERS, 4)
)
RANKS = {
    "vllm": ("distributed/utils.py", ("engine/arg_utils.py",), "--pipeline-parallel-size"),
    "sglang": ("srt/distributed/utils.py", ("srt/server_args.py", "srt/arg_groups/**/*.py"), "--pp-size"),
}


def environment_and_words(line):
    words = shlex.split(line)
    environment = dict(word.split("=", 1) for word in words if re.match(r"[A-Z_]+=", word))
    return environment, words[len(environment) :]


@pytest.mark.parametrize("engine", sorted(RANKS))
@pytest.mark.parametrize("counts", SPLITS)
def test_each_rank_takes_the_layers_of_the_plan(engine, counts, monkeypatch):
    environment, words = environment_and_words(ENGINES[engine].emit(split_plan(counts)))
    monkeypatch.setattr(os, "environ", environment)
    known = {"os": os, "Tuple": tuple, "envs": SimpleNamespace(**environment), "logger": None}
    indices = their_definition(engine, RANKS[engine][0], "get_pp_indices", **known)
    size = int(words[words.index(RANKS[engine][2]) + 1])
    assert [indices(LAYERS, rank, size) for rank in range(size)] == bounds(counts)


@pytest.mark.parametrize("engine", sorted(RANKS))
@pytest.mark.parametrize("streamed", ["", PERIOD, EXPERTS])
@pytest.mark.parametrize("hosts", [False, True])
def test_every_option_that_is_said_exists(engine, streamed, hosts):
    known = their_options(engine, *RANKS[engine][1])
    plan = split_plan((8, 4), streamed)
    if hosts:
        text = TABLE + "place . on cuda:0\nplace model.layers.{6..11} on cuda:1\nplace lm_head on cuda:1\n"
        plan = parse(re.sub(r"cuda:([0-2])", r"node\1/cuda:0", text).replace("cpu", "node0/cpu"))
    said_options = {word for word in shlex.split(ENGINES[engine].emit(plan)) if word.startswith("--")}
    assert said_options - {"--model-path"} <= known
    assert "--no-such-option" not in known


@pytest.mark.parametrize("counts", SPLITS)
def test_mlx_lm_runs_the_layers_of_the_plan(counts):
    pipeline = their_definition("mlx_lm", "models/pipeline.py", "PipelineMixin")
    call = ENGINES["mlx-lm"].emit(split_plan(counts))
    found = []
    for rank in range(len(counts)):
        model = pipeline()
        model.layers = list(range(LAYERS))
        group = SimpleNamespace(rank=lambda rank=rank: rank, size=lambda: len(counts))
        eval(call, {"model": model, "group": group})  # noqa: S307  # the call that is printed
        found.append(model.pipeline_layers)
    assert found[::-1] == [list(range(*each)) for each in bounds(counts)]


class OwnNames(nn.Module):
    """A model with the names torchtitan gives its own."""

    def __init__(self):
        super().__init__()
        self.tok_embeddings = nn.Embedding(8, 4)
        self.layers = nn.ModuleDict({str(i): nn.Linear(4, 4) for i in range(LAYERS)})
        self.norm = nn.LayerNorm(4)
        self.lm_head = nn.Linear(4, 8)


@pytest.mark.parametrize("counts", SPLITS)
def test_torchtitan_keeps_every_module_in_one_stage(counts):
    known = {"copy": copy, "nn": nn, "ModuleDict": nn.ModuleDict, "ModuleList": nn.ModuleList}
    split = their_definition("torchtitan", "distributed/pipeline_parallel.py", "_split_module", **known)
    stages = json.loads(ENGINES["torchtitan"].emit(split_plan(counts)))["module_fqns_per_model_part"]
    whole = OwnNames()
    kept = [[name for name, _ in split(whole, stage).named_parameters()] for stage in stages]
    assert [*chain(*kept)] == [name for name, _ in whole.named_parameters()]
    layers = [
        sorted({int(name.split(".")[1]) for name in names if name.startswith("layers")}) for names in kept
    ]
    assert layers == [list(range(*each)) for each in bounds(counts)]


@pytest.fixture
def dense(tmp_path):
    return write_llama(tmp_path / "dense.gguf", layers=8)


@pytest.fixture
def mixture(tmp_path):
    return write_llama(tmp_path / "mixture.gguf", layers=6, wide=512, experts=8)


def line_for(path, memory, *more):
    result = run_command([str(path), "--memory", memory, "--for", "llama.cpp", *more])
    assert result.code == 0, result.err
    words = shlex.split(result.out.replace("MODEL.gguf", str(path)))[1:]
    if "--device" in words:  # there is none here
        at = words.index("--device")
        words[at : at + 2] = []
    return words


def test_llama_cpp_loads_what_is_split_over_cards(dense):
    words = line_for(dense, "cuda:0=5MiB,cuda:1=7MiB,cpu=1GiB")
    assert "-ts" in words
    assert LOADED in said(words)


ARGUED = "HTTP server"
"""What is said once the arguments are read: the package's server breaks off where tensors are moved."""


def test_llama_cpp_takes_the_experts_of_first_layers(mixture):
    words = line_for(mixture, "cuda:0=14MiB,cpu=1GiB")
    assert int(words[words.index("--n-cpu-moe") + 1]) > 0
    assert ARGUED in said(words, until=ARGUED)


def test_llama_cpp_takes_the_patterns(mixture, tmp_path):
    edits = tmp_path / "edits.plan"
    edits.write_text("place blk.{2,4}.ffn_{up,down}_exps on cpu\nplace token_embd on cpu\n")
    words = line_for(mixture, "cuda:0=1GiB,cpu=1GiB", "--override", str(edits))
    assert ARGUED in said(words, until=ARGUED)
    words[words.index("-ot") + 1] += "X"
    assert "unknown buffer type" in said(words, until=ARGUED)


def test_llama_cpp_reads_the_preset(dense, tmp_path):
    target = tmp_path / "models.ini"
    line_for(dense, "cuda:0=1GiB,cpu=1GiB", "--prompt", "900", "-o", str(target))
    text = target.read_text()
    assert "ctx-size = 1028" in text
    target.write_text("\n".join(row for row in text.splitlines() if not row.startswith("device")))
    answer = said(["--models-preset", str(target)], until="listening")
    assert "dense" in answer
    assert "listening" in answer


def test_an_option_it_does_not_have_is_refused_by_llama_cpp(dense):
    assert LOADED not in said(["-m", str(dense), "--tensor-splits", "1,2"])


KINDS = ("kv cache", "logits")


@pytest.mark.parametrize(
    ("tokens", "rows", "shape"),
    [
        (640, 1, {"wide": 3072}),
        (4096, 1, {"hidden": 512, "wide": 2048}),
        (3000, 2, {}),
        (100, 1, {}),
        (2048, 1, {"wide": 256, "experts": 16, "chosen": 8}),
        (2048, 3, {"wide": 768, "experts": 16, "chosen": 4, "kv_heads": 8}),
    ],
)
def test_the_ledger_has_the_buffers_that_llama_cpp_takes(tmp_path, tokens, rows, shape):
    path = write_llama(tmp_path / "a.gguf", layers=3, **shape)
    demands = read_gguf(path, Diagnostics()).with_room(None, tokens, rows).demands
    words = ["-c", str(tokens * rows), "-np", str(rows), "-fa", "on", "--fit", "off"]
    text = said(["-m", str(path), *words])
    told = {
        kind: sum(d.nbytes for d in demands if d.purpose == kind) / 2**20 for kind in ("kv cache", "logits")
    }
    widest = max(d.nbytes for d in demands if d.purpose == "activations") / 2**20
    assert told["kv cache"] == pytest.approx(mebibytes(text, "KV"), abs=0.01)
    assert told["logits"] == pytest.approx(mebibytes(text, "output"), abs=0.01)
    assert mebibytes(text, "compute") <= widest <= 1.6 * mebibytes(text, "compute")


def test_what_is_compared_with_is_what_is_installed():
    assert (installed("mlx_lm") / "models" / "pipeline.py").is_file()

"""`--for` and `--read`, as people type them."""

from __future__ import annotations

import re

import pytest
from checkpoints import llama_tensors, write_file
from command import run_command
from compile_plan.backends.engines import ENGINES

MEMORY = ("--memory", "cuda:0=40KiB,cuda:1=30KiB,cpu=1GiB")


@pytest.fixture
def folder(tmp_path):
    write_file(tmp_path / "model.safetensors", llama_tensors(8, width=32))
    return str(tmp_path)


@pytest.mark.parametrize("engine", sorted(ENGINES.keys() - {"diffusers"}))
def test_every_engine_is_told_a_model_that_fits(folder, engine):
    result = run_command([folder, "--memory", "cuda:0=1GiB,cpu=1GiB", "--for", engine])
    assert (result.code, result.err) == (0, "")
    assert len(result.out.splitlines()) >= 1


def test_two_cards_of_unequal_size_get_layers_in_their_order(folder):
    result = run_command([folder, "--memory", "cuda:0=200KiB,cuda:1=150KiB,cpu=1GiB", "--for", "vllm"])
    assert result.code == 0
    counts = result.out.partition("VLLM_PP_LAYER_PARTITION=")[2].partition(" ")[0].split(",")
    assert sum(map(int, counts)) == 8


def test_llama_cpp_gets_its_embedding_on_the_host_without_being_asked(folder):
    result = run_command([folder, "--memory", "cuda:0=1GiB,cpu=1GiB", "--for", "llama.cpp"])
    assert result.err == ""
    assert result.out == "llama-server -m MODEL.gguf -ngl 9 --device CUDA0 --fit off\n"


def test_the_engine_has_a_file_of_its_own(folder, tmp_path):
    target = tmp_path / "models.ini"
    result = run_command(
        [folder, "--memory", "cuda:0=1GiB,cpu=1GiB", "--for", "llama.cpp", "-o", str(target)]
    )
    assert result.code == 0
    assert "n-gpu-layers = 9\n" in target.read_text()


def test_nothing_is_written_for_an_engine_that_would_do_something_else(folder, tmp_path):
    edits = tmp_path / "edits.plan"
    edits.write_text("place model.layers.7 on cpu\nplace model.layers.{0..6} on cuda:0\n")
    target = tmp_path / "models.ini"
    target.write_text("mine\n")
    memory = ("--memory", "cuda:0=1GiB,cpu=1GiB", "--offload", "compute")
    result = run_command([folder, *memory, "--override", str(edits), "--for", "llama.cpp", "-o", str(target)])
    assert result.code == 1
    assert "engine-cannot" in result.err
    assert target.read_text() == "mine\n"


@pytest.mark.parametrize(
    ("typed", "meant"), [("lama.cpp", "llama.cpp"), ("vlm", "vllm"), ("sglan", "sglang")]
)
def test_a_misspelled_engine_is_named(folder, typed, meant):
    result = run_command([folder, *MEMORY, "--for", typed])
    assert result.code == 1
    assert "unknown-engine" in result.err
    assert f"did you mean `{meant}`?" in result.err


def test_a_line_of_the_fit_tool_becomes_a_plan(folder, tmp_path):
    target = tmp_path / "p.plan"
    memory = ("--memory", "cuda:0=1GiB,cuda:1=1GiB,cpu=1GiB")
    result = run_command([folder, *memory, "--read", "-c 512 -ngl 9 -ts 5,4", "-o", str(target)])
    assert result.code == 0
    text = target.read_text()
    assert "place model.layers.{0..4} on cuda:0" in text
    assert "place model.layers.{5..7} on cuda:1" in text
    again = run_command([str(target), "--for", "llama.cpp"])
    assert again.code == 1  # a text without a module table has no layers to count
    assert "module table" in again.err


@pytest.mark.parametrize("line", ["nonsense", "-ngl x", "-ngl 9 -ts 1,2,3"])
def test_a_line_that_cannot_be_read_is_refused(folder, line):
    result = run_command([folder, "--memory", "cuda:0=1GiB,cpu=1GiB", "--read", line])
    assert result.code == 1
    assert "engine-line" in result.err


def test_two_things_to_write_are_refused(folder):
    result = run_command([folder, *MEMORY, "--for", "vllm", "--to", "plan"])
    assert result.code == 2


LAYERS = "".join(
    ["plan 1\nmodule model.embed_tokens : Embedding 44MiB\nmodule model.layers.{0..79} : LlamaDecoderLayer\n"]
    + [f"module model.layers.{{0..79}}.{part}MiB\n" for part in ("self_attn : Attention 6", "mlp : MLP 28")]
    + ["module model.norm : Norm 16KiB\nmodule lm_head : Linear 44MiB\n"]
)
MIXTURE = "".join(
    ["plan 1\nmodule token_embd : Embedding 60MiB\nmodule blk.{0..23} : Block\n"]
    + [f"module blk.{{0..23}}.ffn_{name}_exps : Linear 40MiB\n" for name in ("up", "gate", "down")]
    + ["module blk.{0..23}.attn_q : Linear 4MiB\n", "module output_norm : Norm 4KiB\n"]
    + ["module output : Linear 60MiB\n"]
)


def engine_line(tmp_path, table, memory, engine, *more):
    source = tmp_path / "m.plan"
    source.write_text(table)
    return run_command([str(source), "--memory", memory, "--for", engine, *more])


@pytest.mark.parametrize(
    ("engine", "table", "expected"),
    [
        ("llama.cpp", LAYERS, r"-ngl (\d+) --device CUDA0,CUDA1 -ts (\d+),(\d+) --fit off"),
        ("llama.cpp", MIXTURE, r"-ngl 25 --device CUDA0,CUDA1 -ts \d+,\d+ --n-cpu-moe \d+ "),
        ("vllm", LAYERS, r"PARTITION=\d+,\d+ .* --offload-group-size 5 --offload-num-in-group 1 "),
    ],
)
def test_what_does_not_fit_is_planned_as_the_engine_can_be_told(tmp_path, engine, table, expected):
    result = engine_line(tmp_path, table, "cuda:0=1860MiB,cuda:1=560MiB,cpu=8GiB", engine)
    assert result.code == 0
    assert re.search(expected, result.out), result.out


def test_experts_without_names_stay_with_their_layers(tmp_path):
    table = LAYERS.replace("mlp : MLP", "mlp.experts : Experts")
    result = engine_line(tmp_path, table, "cuda:0=1860MiB,cuda:1=560MiB,cpu=8GiB", "llama.cpp")
    assert re.search(r"-ngl \d+ --device CUDA0,CUDA1 -ts \d+,\d+ --fit off", result.out), result.err


def test_no_fewer_layers_are_on_the_cards_than_fit(tmp_path):
    result = engine_line(tmp_path, LAYERS, "cuda:0=1860MiB,cuda:1=560MiB,cpu=8GiB", "llama.cpp")
    layers, *split = map(int, re.search(r"-ngl (\d+) .* -ts (\d+),(\d+)", result.out).groups())
    assert sum(split) == layers == 54 + 15 + 1  # 54 of 34 MiB in 1860; 15 and the head of 44 in 560


def test_an_engine_that_streams_nothing_is_refused_what_does_not_fit(tmp_path):
    result = engine_line(tmp_path, LAYERS, "cuda:0=1860MiB,cuda:1=560MiB,cpu=8GiB", "mlx-lm")
    assert result.code == 1
    assert "engine-cannot" in result.err


def test_places_a_person_wrote_are_not_planned_over(tmp_path):
    edits = tmp_path / "edits.plan"
    edits.write_text("place model.layers.79 on cpu\n")
    result = engine_line(tmp_path, LAYERS, "cuda:0=1860MiB,cpu=8GiB", "llama.cpp", "--override", str(edits))
    assert result.code == 1
    assert "engine-cannot" in result.err

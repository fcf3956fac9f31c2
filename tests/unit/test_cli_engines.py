"""`--for` and `--read`, as people type them."""

from __future__ import annotations

import pytest
from checkpoints import llama_tensors, write_file
from command import run_command
from compile_plan.backends.engines import ENGINES

MEMORY = ("--memory", "cuda:0=40KiB,cuda:1=30KiB,cpu=1GiB")


@pytest.fixture
def folder(tmp_path):
    write_file(tmp_path / "model.safetensors", llama_tensors(8, width=32))
    return str(tmp_path)


@pytest.mark.parametrize("engine", sorted(ENGINES))
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

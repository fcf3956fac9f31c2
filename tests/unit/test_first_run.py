"""A stranger's first command: an answer that fits a screen, and ways out that work when they are taken."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys

import pytest
from checkpoints import llama_tensors, write_shards
from command import run_command
from compile_plan.compiler import compile_plan
from compile_plan.ir import parse_size

KIB = 1024


def folder_of(tmp_path, **options):
    return write_shards(tmp_path / "mixture", llama_tensors(**options), 2)


def spill_of(plan):
    return next((found for found in plan.diagnostics if found.code == "spill"), None)


def test_94_layers_of_experts_on_two_cards_fit_a_screen(tmp_path):
    folder = folder_of(tmp_path, layers=94, experts=8, width=64)
    total = compile_plan(folder, max_memory={"cpu": "1GiB"}).tree.prefix_bytes[-1]
    memory = f"cuda:0={total // 5},cuda:1={total // 5},cpu=1GiB"
    result = run_command([str(folder), "--memory", memory], terminal=True, environ={"NO_COLOR": "1"})
    assert result.code == 0
    lines = (result.err + result.out).splitlines()
    assert len(lines) <= 24
    assert max(map(len, result.out.splitlines())) <= 80
    for expected in (
        "cuda:0",
        "cuda:1",
        "cpu",
        "predicted: ",
        "a token",
        "helps most: ",
        "model.layers.{",
    ):
        assert expected in result.out
    assert "about" not in result.out


def test_without_options_the_cards_of_the_machine_are_asked_for(tmp_path):
    folder = folder_of(tmp_path, layers=4, experts=4)
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho '0, GPU-1, X, 8192'\necho '1, GPU-2, X, 8192'\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    environ = {**os.environ, "PATH": f"{tool.parent}:{os.environ['PATH']}", "COLUMNS": "80"}
    environ.pop("CUDA_VISIBLE_DEVICES", None)
    command = [sys.executable, "-m", "compile_plan.compiler", str(folder), "--format", "json"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    names = [device["name"] for device in json.loads(done.stdout)["devices"]]
    assert names[:2] == ["cuda:0", "cuda:1"]


@pytest.mark.parametrize("cards", [1, 3, 6, 12])
def test_however_many_cards_the_table_fits_a_screen(tmp_path, cards):
    folder = folder_of(tmp_path, layers=60, width=32)
    total = compile_plan(folder, max_memory={"cpu": "1GiB"}).tree.prefix_bytes[-1]
    memory = ",".join(f"cuda:{i}={total // cards * 3 // 4}" for i in range(cards))
    result = run_command([str(folder), "--memory", f"{memory},cpu=1GiB"], environ={"NO_COLOR": "1"})
    assert result.code == 0
    assert len(result.out.splitlines()) <= 30


def test_layers_placed_in_turn_are_ranges_with_steps(tmp_path):
    folder = folder_of(tmp_path, layers=12)
    edits = tmp_path / "edits.plan"
    edits.write_text("place model.layers.{0..10..2} on cuda:0\nplace model.layers.{1..11..2} on cuda:1\n"
                     )  # fmt: skip
    memory = "cuda:0=1MiB,cuda:1=1MiB"
    result = run_command([str(folder), "--memory", memory, "--override", str(edits)])
    assert "model.layers.{0..10..2}" in result.out
    assert "model.layers.{1..11..2}" in result.out


def test_what_is_cut_off_is_counted_and_all_shows_it(tmp_path):
    lines = "".join(f"place part{i * 7}of{i * i} on cpu\n" for i in range(60))
    modules = "".join(f"module part{i * 7}of{i * i} : Linear 1KiB\n" for i in range(60))
    text = 'plan 1\nmodel "m"\ndevice cpu memory 1MiB\n'
    (tmp_path / "odd.plan").write_text(f"{text}{modules}{lines}")
    result = run_command([str(tmp_path / "odd.plan")])
    (count,) = re.findall(r"… (\d+) more with --all", result.out)
    assert result.out.count("part") + int(count) == 60
    assert run_command([str(tmp_path / "odd.plan"), "--all"]).out.count("part") == 60


def test_so_many_more_cards_are_enough(tmp_path):
    folder = folder_of(tmp_path, layers=40, width=64)
    memory = {0: "600KiB", "cpu": "1GiB"}
    (count,) = re.findall(
        r"^(\d+) more cards like cuda:0", spill_of(compile_plan(folder, max_memory=memory)).help
    )
    enough = memory | {1 + i: "600KiB" for i in range(int(count))}
    assert spill_of(compile_plan(folder, max_memory=enough)) is None


def test_a_smaller_dtype_is_advised_where_it_fits_and_it_does(tmp_path):
    tensors = {name: ("F32", shape) for name, (_, shape) in llama_tensors(layers=20, width=32).items()}
    folder = write_shards(tmp_path / "wide", tensors, 1)
    total = compile_plan(folder, max_memory={"cpu": "1GiB"}).tree.prefix_bytes[-1]
    memory = {0: total * 6 // 10, "cpu": "1GiB"}
    assert "`--dtype bfloat16`" in spill_of(compile_plan(folder, max_memory=memory)).help
    assert spill_of(compile_plan(folder, max_memory=memory, dtype="bfloat16")) is None
    less = compile_plan(folder, max_memory={0: total // 4, "cpu": "1GiB"})
    assert "--dtype" not in spill_of(less).help


def test_a_little_more_memory_is_said_before_another_card(tmp_path):
    folder = folder_of(tmp_path, layers=20, width=32)
    total = compile_plan(folder, max_memory={"cpu": "1GiB"}).tree.prefix_bytes[-1]
    memory = {0: total * 95 // 100, "cpu": "1GiB"}
    first = spill_of(compile_plan(folder, max_memory=memory)).help.splitlines()[0]
    (more,) = re.findall(r"^\+(\S+) on cuda:0", first)
    assert spill_of(compile_plan(folder, max_memory=memory | {0: memory[0] + parse_size(more)})) is None


def test_where_memory_ends_a_disk_is_offered_and_it_holds_the_rest(tmp_path):
    folder = folder_of(tmp_path, layers=20, width=32)
    result = run_command([str(folder), "--memory", "cuda:0=100KiB,cpu=100KiB"])
    assert result.code == 1
    assert "or list `disk`" in result.err
    assert run_command([str(folder), "--memory", "cuda:0=100KiB,cpu=100KiB,disk"]).code == 0

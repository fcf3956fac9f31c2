"""``--explain``: what it proposes is applied, and the module is there afterwards."""

from __future__ import annotations

import re

import pytest
from command import run_command
from compile_plan.backends import read_plan

MODEL = """\
plan 1
model "tiny"

device cuda:0 memory 12KiB
device cuda:1 memory 9KiB
device cpu memory 1MiB

module embed : Embedding
parameter embed.weight : uint8[4096] 4KiB
module layers : ModuleList
module layers.0 : Block
module layers.0.attn : Linear 4KiB
module layers.0.mlp : Linear 4KiB
module layers.1 : Block
module layers.1.attn : Linear 4KiB
module layers.1.mlp : Linear 4KiB
module norm : Norm 1KiB
module lm_head : Linear
parameter lm_head.weight : uint8[4096] 4KiB
"""
BUDGETS = ("--memory", "cuda:0=12KiB,cuda:1=9KiB,cpu=1MiB")
TIE = "tie embed.weight = lm_head.weight\n"
CACHE = 'demand 1KiB with layers.0 for "kv cache"\ndemand 512B with layers.1 for "activations"\n'


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "tiny.plan").write_text(MODEL, encoding="utf-8")
    return tmp_path


def proposal(folder, path):
    """Return the lines `--explain` proposes for an override file."""
    result = run_command(["made.msgpack", "--explain", path], cwd=folder)
    assert result.code == 0, result.err
    change = next(line for line in result.out.splitlines() if line.startswith("  to change"))
    return re.findall(r"`([^`]+)`", change)


MOMENTS = 'demand 3KiB with layers for "activations"\ndemand 2KiB with . for "logits"\n'
TOGETHER = "together norm lm_head\n"


@pytest.mark.parametrize("more", ["", TIE, CACHE, TIE + CACHE, MOMENTS, TOGETHER, TIE + MOMENTS + TOGETHER])
@pytest.mark.parametrize("pool", ["", " pool unified 24KiB", " margin 512B pool unified 28KiB"])
def test_the_proposed_change_moves_the_module(folder, more, pool):
    budgets = () if pool else BUDGETS
    text = MODEL.replace("memory 12KiB", f"memory 12KiB{pool}").replace("memory 9KiB", f"memory 9KiB{pool}")
    (folder / "tiny.plan").write_text(text + more, encoding="utf-8")
    filled = ("--objective", "accelerator-bytes")  # on several devices, whatever is the quickest
    assert run_command(["tiny.plan", *budgets, *filled, "-o", "made.msgpack", "-q"], cwd=folder).code == 0
    check_proposals(folder, budgets)


def check_proposals(folder, budgets):
    units = read_plan(folder / "made.msgpack").units
    assert len({unit.store for unit in units}) > 1
    for unit in units:
        lines = proposal(folder, unit.path)
        target = re.fullmatch(r"place (\S+) on (\S+)", lines[-1])
        assert target is not None
        assert target[1] == unit.path
        (folder / "edit.plan").write_text("\n".join(lines) + "\n", encoding="utf-8")
        again = run_command(
            ["tiny.plan", *budgets, "--override", "edit.plan", "-o", "moved.msgpack", "-q"], cwd=folder
        )
        assert again.code == 0, (lines, again.err)
        moved = read_plan(folder / "moved.msgpack")
        holder = next(each for each in moved.units if unit.path.startswith(each.path))
        assert holder.store == target[2] != unit.store


def test_a_forbidden_device_is_not_proposed(folder):
    (folder / "never.plan").write_text("never norm on cuda:0\nplace norm on cuda:1\n", encoding="utf-8")
    result = run_command(["tiny.plan", *BUDGETS, "--override", "never.plan", "--explain", "norm"], cwd=folder)
    assert "why not    cuda:0: a line says `never norm on cuda:0`" in result.out
    assert "on cuda:0` in an override file" not in result.out


def test_a_device_is_explained_by_what_set_its_peak(folder):
    lines = folder / "lines.plan"
    lines.write_text(
        CACHE + 'demand 700B with layers.0 for "activations"\ndemand 300B with lm_head for "logits"\n'
        "workload rows 2 prompt 30 tokens 4\nplace . on cuda:0\nplace layers.1 on cuda:1\n"
        "place lm_head on cpu\nplace embed on cpu\n"
    )
    told = run_command(
        [str(folder / "tiny.plan"), *BUDGETS, "--override", str(lines), "--explain", "cuda:0"]
    ).out
    assert re.search(r"holds +10.7KiB of 12.0KiB", told), told
    assert "its peak  `layers.0`, while it runs: 700B" in told
    assert "generate: 2 rows, prompt 30, 4 tokens written" in told
    told = run_command(
        [str(folder / "tiny.plan"), *BUDGETS, "--override", str(lines), "--explain", "cuda:1"]
    ).out
    assert "its peak  `layers.1`, while it runs: 512B" in told
    assert "largest   `layers.1`, 8.0KiB" in told


def test_a_ledger_says_what_it_is_for(folder):
    lines = folder / "lines.plan"
    lines.write_text("workload rows 2 prompt 30 tokens 4\n")
    shown = run_command([str(folder / "tiny.plan"), *BUDGETS, "--override", str(lines)]).out
    assert "counted for generate: 2 rows, prompt 30, 4 tokens written\n" in shown
    lines.write_text("workload loss rows 1 tokens 64\n")
    page = folder / "page.html"
    result = run_command([str(folder / "tiny.plan"), *BUDGETS, "--override", str(lines), "-o", str(page)])
    assert "counted for loss: 1 row of 64 tokens\n" in result.out
    assert "1 row of 64 tokens" in page.read_text()

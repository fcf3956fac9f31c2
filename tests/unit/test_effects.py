"""No option without effect: every option of the command is obeyed, or refused for this input (F32)."""

from __future__ import annotations

import re

import pytest
from command import run_command
from compile_plan.compiler.cli.arguments import FLAGS
from compile_plan.compiler.driver.effects import Holding, check_effects
from compile_plan.compiler.driver.options import Options, read_options
from compile_plan.compiler.lines.option_lines import READINGS
from compile_plan.ir import Diagnostics

PLAN = """\
plan 1
model "small"

device cuda:0 memory 10KiB
device cpu memory 1MiB

module layers : ModuleList
module layers.0 : Linear 4KiB
module layers.1 : Linear 4KiB

place layers.0 on cuda:0
place layers.1 on cpu run on cpu
"""
VALUES = {
    "memory": "cuda:0=20KiB,cpu=1MiB", "reserve": "cuda:0=1KiB", "margin": "1KiB", "runtime": "1KiB",
    "kv_cache": "1KiB", "dtype": "float16", "no_split": "Linear", "strategy": "balanced",
    "objective": "balance", "offload": "compute", "time_limit": "5", "prompt": "7", "generate": "9",
    "batch": "2", "seq": "8", "cache_tokens": "8", "inputs": "float32[1,8]", "override": "more.plan",
}  # fmt: skip
NO_FORWARD = {"batch", "seq", "cache_tokens", "inputs", "trust_remote_code"}
REFUSED = {
    "plan": {*NO_FORWARD, "fallback"},
    "script": {"trust_remote_code", "fallback"},
    "checkpoint": {"batch", "seq", "inputs", "trust_remote_code", "fallback"},
}
"""What each input cannot obey when the option stands alone."""

SCRIPT = """\
import torch
from torch import nn
model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("inputs")
    (path / "plan.plan").write_text(PLAN)
    (path / "script.py").write_text(SCRIPT)
    (path / "more.plan").write_text("split .\n")
    from safetensors.torch import save_file
    from torch import ones

    save_file({f"layers.{i}.weight": ones(8, 8) for i in range(2)}, path / "checkpoint.safetensors")
    return path


INPUTS = {"plan": "plan.plan", "script": "script.py", "checkpoint": "checkpoint.safetensors"}
COMPILING = sorted({*VALUES, "offload_buffers", "trust_remote_code", "fallback"})


@pytest.mark.parametrize("option", COMPILING)
@pytest.mark.parametrize("kind", INPUTS)
def test_each_option_is_obeyed_or_refused_with_the_reason(kind, option, folder):
    flag = next(flag for flag in FLAGS if flag.destination == option)
    given = [flag.names[-1], *([VALUES[option]] if option in VALUES else [])]
    budgets = [] if option == "memory" else ["--memory", "cuda:0=20KiB,cpu=1MiB"]
    result = run_command([INPUTS[kind], *budgets, *given, "-o", "-"], cwd=folder)
    codes = set(re.findall(r"^error\[([a-z-]+)\]", result.err, re.MULTILINE))
    if option in REFUSED[kind]:
        assert codes == {"option-without-effect"}
        assert "help:" in result.err
    else:
        assert "option-without-effect" not in codes, result.err
        assert result.code == 0 or codes, result.err
        remembered = option in READINGS and option != "trust_remote_code"
        if result.code == 0 and remembered:
            assert f"option {option.replace('_', '-')} " in result.out or "margin" in result.out


@pytest.mark.parametrize(
    "arguments",
    [
        ["--diff", "plan.plan", "plan.plan", "-o", "x.plan"],
        ["--calibrate", "-o", "x.plan"],
        ["--format-plan", "plan.plan", "--memory", "cpu=1GiB"],
        ["--explain-code", "bad-usage", "--strategy", "auto"],
        ["--diff", "plan.plan", "plan.plan", "--calibrate"],
        ["plan.plan", "-o", "x.msgpack", "--with-modules"],
        ["plan.plan", "--passes", "merge-ties", "--strategy", "auto"],
    ],
    ids=" ".join,
)
def test_what_has_no_part_in_a_command_is_bad_usage(arguments, folder):
    result = run_command(arguments, cwd=folder)
    assert result.code == 2
    assert "error[option-without-effect]" in result.err
    assert not (folder / "x.plan").exists()


def test_passes_that_do_not_run_are_not_printed(folder):
    result = run_command(["plan.plan", "--print-after", "all"], cwd=folder)
    assert "error[option-without-effect]" in result.err


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"fallback": False}, "fallback"),
        ({"strategy": "accelerate", "time_limit": 5}, "time_limit"),
        ({"strategy": "accelerate", "objective": "balance"}, "objective"),
        ({"objective": "balance", "prompt": 5}, "prompt"),
        ({"cache_tokens": 5, "kv_cache": 5}, "cache_tokens"),
    ],
)
def test_an_option_that_another_leaves_idle_is_refused(options, name):
    found = Diagnostics()
    check_effects(read_options(options, found), Holding.MODULE, found)
    assert [each.message.split("`")[1] for each in found] == [name]


@pytest.mark.parametrize("holding", Holding)
def test_nothing_given_is_nothing_refused(holding):
    found = Diagnostics()
    check_effects(Options(), holding, found)
    assert not [*found]

"""What people type first: machines by name, many cards at once, words of other tools, lists of codes."""

from __future__ import annotations

import json
import subprocess

import compile_plan
import pytest
from checkpoints import llama_tensors, write_shards
from command import run_command
from compile_plan.compiler import compile_model
from compile_plan.compiler.cli.foreign_options import _POINTED
from compile_plan.ir import RULES
from torch import nn

BUDGETS = "cuda:0=1MiB,cuda:1=1MiB,cpu=1GiB"


@pytest.fixture
def home(tmp_path):
    return {"XDG_CONFIG_HOME": str(tmp_path / "config")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(write_shards(tmp_path_factory.mktemp("options") / "small", llama_tensors(layers=4), 1))


def devices(result):
    assert result.code == 0, result.err
    return {each["name"]: each["memory"] for each in json.loads(result.out)["devices"]}


def test_the_version_is_one_in_every_place():
    from importlib.metadata import version

    assert compile_plan.__version__ == version("compile-plan")
    assert run_command(["--version"]).out == f"compile-plan {compile_plan.__version__}\n"
    with pytest.raises(AttributeError, match="no attribute `nothing`"):
        _ = compile_plan.nothing


def test_a_machine_is_remembered_and_planned_for(folder, home):
    saved = run_command(["--memory", BUDGETS, "--save", "lab"], environ=home)
    assert (saved.code, saved.out) == (0, "")
    by_name = run_command([folder, "--machine", "lab", "--format", "json"], environ=home)
    by_list = run_command([folder, "--memory", BUDGETS, "--format", "json"], environ=home)
    assert devices(by_name) == devices(by_list)
    assert json.loads(by_name.out)["devices"][0]["origin"] == "of machine lab"


def test_a_description_may_be_edited_and_lie_anywhere(folder, home, tmp_path):
    mine = tmp_path / "two.plan"
    mine.write_text("device cuda:{0,1} memory 2MiB bandwidth 900GB/s\ndevice cpu memory 1GiB\n"
                    "link cuda:0 cuda:1 rate 300GB/s latency 10us\n")  # fmt: skip
    out = tmp_path / "out.plan"
    result = run_command([folder, "--machine", str(mine), "-o", str(out)], environ=home)
    assert result.code == 0, result.err
    assert "link cuda:0 cuda:1 rate 300GB/s" in out.read_text()
    assert "bandwidth 900GB/s" in out.read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--machine", "lap"], "did you mean `lab`?"),
        (["--machine", "elsewhere"], "known are `lab`"),
        (["--machine", "lab", "--memory", BUDGETS], "both say what the devices are"),
        (["--save", "other"], "add `--memory"),
        (["--memory", BUDGETS, "--save"], "write `--save lab`"),
        (["--memory", BUDGETS, "--save", "a/b"], "no name for a machine"),
    ],
)
def test_what_is_wrong_with_a_machine_is_said(folder, home, arguments, words):
    run_command(["--memory", BUDGETS, "--save", "lab"], environ=home)
    result = run_command([folder, *arguments], environ=home)
    assert result.code == 2
    assert words in result.err


def test_one_line_says_eight_cards():
    result = run_command(["--memory", "cuda:{0..7}=80GiB,node1/cuda:{0,1}=8GiB,cpu=1TiB", "--save"])
    assert result.code == 2
    model = nn.Linear(4, 4, device="meta")
    plan = compile_model(model, max_memory={"cuda:{0..7}": "80GiB", "cpu": "1TiB"})
    assert [d.name for d in plan.devices] == [*(f"cuda:{i}" for i in range(8)), "cpu"]
    assert {d.memory for d in plan.devices[:8]} == {80 * 2**30}


def test_many_cards_of_the_command_line(folder):
    listed = run_command(
        [folder, "--memory", "cuda:{0..3}=1MiB,node1/cuda:{0,1}=1MiB,cpu=1GiB", "--format=json"]
    )
    assert len(devices(listed)) == 7
    for wrong in ("cuda:{0..3=1MiB", "cuda:{0..999999999}=1MiB", "gpu{0..1}=1MiB"):
        result = run_command([folder, "--memory", wrong])
        assert result.code == 2
        assert "is not a device" in result.err


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (["--max-memory", '{0: "1MiB", "cpu": "1GiB"}'], ["--memory", "cuda:0=1MiB,cpu=1GiB"]),
        (["--max_memory={'cuda:0': '1MiB', 'cpu': '1GiB'}"], ["--memory", "cuda:0=1MiB,cpu=1GiB"]),
        (["--max-memory", "0=1MiB,cpu=1GiB"], ["--memory", "cuda:0=1MiB,cpu=1GiB"]),
        (["--memory", BUDGETS, "--device-map", "balanced"], ["--memory", BUDGETS, "--strategy", "balanced"]),
        (["--memory", BUDGETS, "--device-map", "auto"], ["--memory", BUDGETS]),
        (["--memory", BUDGETS, "--torch_dtype", "float16"], ["--memory", BUDGETS, "--dtype", "float16"]),
    ],
)
def test_words_of_other_tools_with_one_meaning_are_understood(folder, theirs, ours):
    assert run_command([folder, *theirs]).out == run_command([folder, *ours]).out
    assert run_command([folder, *theirs]).code == 0


@pytest.mark.parametrize("option", _POINTED)
def test_other_words_of_other_tools_are_pointed_to_and_what_is_suggested_exists(folder, option):
    result = run_command([folder, option, "--quiet"])
    assert result.code == 2
    assert f"there is no option `{option}`" in result.err
    (help_,) = [line for line in result.err.splitlines() if "= help:" in line]
    assert "did you mean" not in help_


def test_the_value_that_was_given_is_in_the_advice(folder):
    result = run_command([folder, "--gpu-memory", "11GiB"])
    assert "`--memory cuda:0=11GiB,cpu=64GiB`" in result.err


def test_every_code_is_listed_and_help_shows_its_page():
    listed = run_command(["--codes"])
    assert [line.split()[0] for line in listed.out.splitlines()] == sorted(RULES)
    as_data = json.loads(run_command(["--codes", "--format", "json"]).out)["codes"]
    assert {each["code"] for each in as_data} == set(RULES)
    assert run_command(["--help", "spill"]).out == run_command(["--explain-code", "spill"]).out


def test_a_table_over_dtypes(folder):
    result = run_command([folder, "--memory", "cuda:0=1MiB,cpu=1GiB", "--dtype", "bfloat16,int8,int4"])
    assert result.code == 0
    head, *rows = [line.split() for line in result.out.splitlines()]
    assert head[:2] == ["dtype", "model"]
    assert [row[0] for row in rows] == ["bfloat16", "int8", "int4"]
    data = json.loads(
        run_command([folder, "--memory", BUDGETS, "--dtype", "bfloat16,int8", "--format", "json"]).out
    )["dtypes"]
    assert data[0]["nbytes"] > data[1]["nbytes"]
    long = ["--rows", "8", "--prompt", "100000", "--memory", "cuda:0=1MiB"]
    table, alone = (run_command([folder, *long, "--dtype", each]) for each in ("bfloat16,int8", "bfloat16"))
    assert ("does not fit" in table.out, "does-not-fit" in alone.err) == (True, True)
    refused = run_command([folder, "--dtype", "bfloat16,int8", "-o", "x.plan"])
    assert (refused.code, "a plan has one" in refused.err) == (1, True)
    assert "bfloat16" in run_command([folder, "--dtype", "bfloot16,int8"]).err


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_knows_every_option(shell):
    pytest.importorskip("shtab")
    script = run_command(["--completion", shell])
    assert script.code == 0
    assert "--objective" in script.out
    assert "balanced_low_0" in script.out
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script.out, text=True, check=True)


def test_no_completion_for_a_shell_nobody_knows():
    result = run_command(["--completion", "fish"])
    assert result.code == 1
    assert "use one of `bash`, `zsh`, `tcsh`" in result.err

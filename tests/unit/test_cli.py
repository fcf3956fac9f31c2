"""The command as a shell sees it: arguments, exit codes, what is on which stream."""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from command import run_command
from compile_plan.backends import read_plan
from compile_plan.compiler.cli import command as cli
from compile_plan.compiler.cli.arguments import FLAGS, help_page, parse_arguments
from compile_plan.compiler.cli.values import read_request
from compile_plan.compiler.driver.options import Options
from compile_plan.compiler.lines.option_lines import OBJECTIVES, OFFLOADS, STRATEGIES
from compile_plan.ir import RULES, Diagnostics

PLAN = """\
plan 1
model "small"

device cuda:0 memory 10KiB
device cpu memory 1MiB

module layers : ModuleList
module layers.0 : Linear 4KiB
module layers.1 : Linear 4KiB
module head : Linear 2KiB

place layers.{0,1} on cuda:0
place head on cpu run on cpu
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "small.plan").write_text(PLAN)
    return tmp_path


def codes(result):
    return re.findall(r"^(?:error|warning)\[([a-z-]+)\]", result.err, re.MULTILINE)


# help and version


def test_help_fits_a_screen_of_80_by_26():
    result = run_command(["--help"])
    assert result.code == 0
    assert len(result.out.splitlines()) <= 26
    assert max(map(len, result.out.splitlines())) <= 80


def test_every_option_is_in_the_long_help():
    page = help_page(every=True)
    assert [name for flag in FLAGS for name in flag.names if not re.search(rf"{name}\b", page)] == []
    assert max(map(len, page.splitlines())) <= 80


@pytest.mark.parametrize("names", [STRATEGIES, OBJECTIVES, OFFLOADS])
def test_the_help_lists_every_choice(names):
    assert all(name in help_page(every=True) for name in names)


def test_version_is_the_installed_one():
    from importlib.metadata import version

    assert run_command(["--version"]).out == f"compile-plan {version('compile-plan')}\n"


# usage


@pytest.mark.parametrize(
    ("arguments", "code", "help_"),
    [
        ([], "bad-usage", "--help"),
        (["m.plan", "--memroy", "cpu=1GiB"], "unknown-option", "did you mean `--memory`?"),
        (["m.plan", "--mem=cpu=1GiB"], "unknown-option", "did you mean `--memory`?"),
        (["m.plan", "--zzzzzz"], "unknown-option", "--help-all"),
        (["m.plan", "n.plan"], "bad-usage", "`-o n.plan`"),
        (["m.plan", "n"], "bad-usage", "one input"),
        (["m.plan", "-o"], "bad-usage", "--help"),
        (["m.plan", "--strategy", "balaced"], "bad-option-value", "did you mean `balanced`?"),
        (["m.plan", "--objective", "fewest_devices"], "bad-option-value", "did you mean `fewest-devices`?"),
        (["m.plan", "--offload", "x"], "bad-option-value", "`stream`"),
        (["m.plan", "--format", "yaml"], "bad-option-value", "`json`"),
        (["m.plan", "--color", "blue"], "bad-option-value", "`never`"),
        (["m.plan", "--margin", "2XB"], "bad-option-value", "`10GiB`"),
        (["m.plan", "--batch", "0"], "bad-option-value", "whole number"),
        (["m.plan", "--seq", "1e3"], "bad-option-value", "whole number"),
        (["m.plan", "--cache-tokens", "9" * 5000], "bad-option-value", "whole number"),
        (["m.plan", "--time-limit", "soon"], "bad-option-value", "seconds"),
        (["m.plan", "--time-limit", "nan"], "bad-option-value", "seconds"),
        (["m.plan", "--reserve", "cuda:0"], "bad-option-value", "--reserve cuda:0=1GiB"),
        (["m.plan", "--reserve", "0=1GiB,cuda:0=2GiB"], "bad-option-value", "keep the one that is true"),
        (["m.plan", "--reserve", "cpu=1", "--reserve", "cpu=2"], "bad-option-value", "two sizes for `cpu`"),
        (["m.plan", "--reserve", "cuda:0=x"], "bad-option-value", "`10GiB`"),
        (["m.plan", "--reserve", "gpu=1GiB"], "unknown-device-name", "did you mean `cuda:0`?"),
        (["m.plan", "--memory", "cuda:0=10XB"], "invalid-budget", "did you mean"),
        (["m.plan", "--memory", "gpu7=1GiB"], "unknown-device-name", "did you mean `cuda:7`?"),
        (["m.plan", "--memory", "cuda:0"], "malformed-memory-option", "cuda:0=10GiB"),
        (["m.plan", "--memory", "cuda:0=0,cpu=0"], "no-usable-device", "memory"),
        (["m.plan", "--dtype", "flaot16"], "unknown-dtype", "did you mean `float16`?"),
        (["m.plan", "--check"], "bad-usage", "--format-plan"),
        (["m.plan", "--diff", "a.plan", "b.plan"], "bad-usage", "leave it out"),
    ],
)
def test_a_wrong_command_line_is_exit_2_with_a_code_and_a_way_out(arguments, code, help_):
    result = run_command(arguments)
    assert (result.code, result.out) == (2, "")
    assert codes(result) == [code]
    assert help_ in result.err


def test_everything_wrong_with_a_command_line_is_said_at_once():
    result = run_command(["m.plan", "--batch", "x", "--memory", "cuda:0=1XB,gpu=2", "--offload", "y"])
    assert sorted(codes(result)) == [
        "bad-option-value", "bad-option-value", "invalid-budget", "unknown-device-name",
    ]  # fmt: skip


def test_a_wrong_value_has_a_caret():
    result = run_command(["m.plan", "--memory", "cpu=1GiB,cuda:0=1XB"])
    assert "1 | cpu=1GiB,cuda:0=1XB\n  |                 ^^^ not a size" in result.err


def test_usage_errors_are_json_when_json_is_asked_for():
    result = run_command(["m.plan", "--format", "json", "--batch", "x"])
    assert result.code == 2
    assert json.loads(result.out)["diagnostics"][0]["code"] == "bad-option-value"


def test_two_results_cannot_share_the_standard_output():
    result = run_command(["m.plan", "-o", "-", "--format", "json"])
    assert result.code == 2
    assert "standard output" in json.loads(result.out)["diagnostics"][0]["message"]


def test_options_reach_the_compiler():
    arguments = [
        "m.py", "--memory", "0=1GiB", "--memory", "cpu=2GiB", "--no-split", "A,B", "--no-split", "C",
        "--dtype", "torch.float16", "--strategy", "balanced", "--objective", "latency", "--offload", "auto",
        "--offload-buffers", "--no-fallback", "--margin", "1MiB", "--kv-cache", "2MiB", "--batch", "3",
        "--seq", "4", "--cache-tokens", "5", "--prompt", "6", "--generate", "7", "--time-limit", "0.5",
        "--trust-remote-code", "--reserve", "cuda:0=1KiB",
    ]  # fmt: skip
    diagnostics = Diagnostics()
    options = read_request(parse_arguments(arguments), diagnostics).options
    assert not len(diagnostics)
    assert [(each.name, each.memory) for each in options.devices] == [("cuda:0", 2**30), ("cpu", 2**31)]
    assert (options.no_split, options.dtype, options.strategy) == (("A", "B", "C"), "float16", "balanced")
    assert (options.objective, options.offload, options.offload_buffers) == ("latency", "auto", True)
    assert (options.fallback, options.margin, options.kv_cache) == (False, 2**20, 2 * 2**20)
    assert (options.batch, options.seq, options.cache_tokens) == (3, 4, 5)
    assert (options.prompt, options.generate, options.time_limit) == (6, 7, 0.5)
    assert options.trust_remote_code
    assert [(r.device, r.nbytes) for r in options.reserves] == [("cuda:0", 1024)]


def test_without_options_the_defaults_are_the_compilers():
    assert read_request(parse_arguments(["m.py"]), Diagnostics()).options == Options()


# results


@pytest.mark.parametrize("form", ["plan", "msgpack", "json", "html"])
def test_a_plan_is_written_in_any_form(folder, form):
    result = run_command(["small.plan", "-o", f"out.{form}"], cwd=folder)
    assert result.code == 0
    assert re.search(rf"^wrote out\.{form} \(", result.err, re.MULTILINE)
    assert (folder / f"out.{form}").stat().st_size > 0
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_text_to_msgpack_to_text_is_the_same_plan(folder):
    run_command(["small.plan", "-o", "out.msgpack"], cwd=folder)
    result = run_command(["out.msgpack", "-o", "-", "--with-modules"], cwd=folder)
    assert read_plan(folder / "out.msgpack") == read_plan(folder / "small.plan")
    assert "parameter head.weight : uint8[2048] 2KiB" in result.out


def test_a_dash_prints_the_plan_and_nothing_else(folder):
    result = run_command(["small.plan", "-o", "-"], cwd=folder)
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("plan 1\n")


def test_a_form_can_be_named_whatever_the_suffix(folder):
    result = run_command(["small.plan", "--to", "device-map", "-o", "-"], cwd=folder)
    assert json.loads(result.out) == {"layers": 0, "head": "cpu"}


def test_an_unknown_form_is_an_error_before_anything_is_read(folder):
    assert codes(run_command(["missing.plan", "--to", "device_map"], cwd=folder)) == ["bad-option-value"]
    assert codes(run_command(["missing.plan", "-o", "out.doc"], cwd=folder)) == ["unknown-form"]


def test_the_table_shows_budget_ledger_contents_and_room(folder):
    result = run_command(["small.plan"], cwd=folder)
    lines = result.out.splitlines()
    assert lines[0] == "small: 10.0KiB in 3 tensors, on 2 devices, 2.0KiB off the accelerators"
    assert re.fullmatch(r"cuda:0  8\.0KiB of 10\.0KiB +█+░+ +80%  2\.0KiB free", lines[2])
    assert lines[3:5] == ["        weights 8.0KiB", "        layers.{0,1}"]
    assert lines[5].startswith("cpu     2.0KiB of 1.0MiB")
    assert max(map(len, lines)) <= 80
    assert result.err == ""


def test_quiet_prints_nothing(folder):
    result = run_command(["small.plan", "-q", "-o", "out.msgpack"], cwd=folder)
    assert (result.code, result.out, result.err) == (0, "", "")


def test_json_has_ledger_units_and_format_version(folder):
    content = json.loads(run_command(["small.plan", "--format", "json"], cwd=folder).out)
    assert content["format_version"] == 1
    assert content["diagnostics"] == []
    assert content["devices"][0]["ledger"]["weights"] == 8192
    assert [unit["path"] for unit in content["units"]] == ["layers.0", "layers.1", "head"]


def test_a_terminal_gets_colour_and_a_pipe_does_not(folder):
    assert "\x1b[" in run_command(["small.plan"], cwd=folder, terminal=True).out
    assert "\x1b[" not in run_command(["small.plan"], cwd=folder).out
    assert (
        "\x1b[" not in run_command(["small.plan"], cwd=folder, terminal=True, environ={"NO_COLOR": "1"}).out
    )
    assert "\x1b[" in run_command(["small.plan"], cwd=folder, environ={"FORCE_COLOR": "1"}).out


def test_a_written_plan_that_exceeds_a_budget_is_refused(folder):
    (folder / "small.plan").write_text(PLAN.replace("memory 10KiB", "memory 7KiB"))
    result = run_command(["small.plan", "-o", "out.msgpack"], cwd=folder)
    assert result.code == 1
    assert codes(result) == ["pins-over-budget"]
    assert not (folder / "out.msgpack").exists()


def test_explain_code_prints_the_page_of_every_rule():
    for code, rule in RULES.items():
        result = run_command(["--explain-code", code])
        assert result.code == 0
        assert rule.page.rstrip() in result.out


def test_explain_code_suggests_the_nearest():
    result = run_command(["--explain-code", "tie-across-device"])
    assert result.code == 1
    assert "did you mean `tie-across-devices`?" in result.err


# files that are not there, or not writable


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["missing.plan"], "missing-input"),
        (["missing.py"], "missing-input"),
        (["small.plan", "-o", "no/such/out.plan"], "no-such-folder"),
        (["small.plan", "--override", "missing.plan", "--memory", "cpu=1GiB"], "no-such-file"),
        (["--format-plan", "missing.plan"], "no-such-file"),
        (["--diff", "missing.plan", "small.plan"], "no-such-file"),
        (["small.plan", "--explain", "layers.7"], "unknown-unit"),
        (["small.plan", "--passes", "merge-tie"], "unknown-pass"),
        (["small.plan", "--print-after", "merge-tie"], "unknown-pass"),
        (["small.plan", "--verify"], "cannot-verify"),
    ],
)
def test_bad_input_is_exit_1_with_a_code(folder, arguments, code):
    before = sorted(folder.rglob("*"))
    result = run_command(arguments, cwd=folder)
    assert (result.code, codes(result)) == (1, [code])
    assert sorted(folder.rglob("*")) == before


def test_a_plan_without_its_modules_cannot_be_placed_anew(folder):
    (folder / "bare.plan").write_text('plan 1\nmodel "m"\n\ndevice cpu memory 1GiB\n\nplace head on cpu\n')
    result = run_command(["bare.plan", "--memory", "cpu=2GiB"], cwd=folder)
    assert (result.code, codes(result)) == (1, ["cannot-replan"])


@pytest.mark.parametrize("passes", ["annotate-sizes", "merge-ties,apply-overrides"])
def test_passes_are_not_run_on_a_plan_that_is_wrong_already(folder, passes):
    (folder / "bare.plan").write_text("place head on cpu\n")
    result = run_command(["bare.plan", "--passes", passes], cwd=folder)
    assert (result.code, codes(result)) == (1, ["undeclared-device"])


# formatting


def test_check_says_what_would_change_and_changes_nothing(folder):
    wild = PLAN.replace("device cpu memory", "device   cpu   memory")
    (folder / "wild.plan").write_text(wild)
    result = run_command(["--format-plan", "small.plan", "wild.plan", "--check"], cwd=folder)
    assert result.code == 3
    assert "wild.plan:5:" in result.err
    assert (folder / "wild.plan").read_text() == wild


def test_formatting_rewrites_only_what_differs(folder):
    run_command(["--format-plan", "small.plan"], cwd=folder)
    tidy = (folder / "small.plan").read_text()
    (folder / "wild.plan").write_text(tidy.replace("device cpu memory", "device   cpu   memory"))
    inode = (folder / "small.plan").stat().st_ino
    result = run_command(["--format-plan", "small.plan", "wild.plan"], cwd=folder)
    assert (result.code, result.err) == (0, "formatted wild.plan\n")
    assert (folder / "wild.plan").read_text() == tidy
    assert (folder / "small.plan").stat().st_ino == inode
    assert run_command(["--format-plan", "wild.plan", "--check"], cwd=folder).code == 0


def test_diff_is_exit_3_only_with_check(folder):
    (folder / "other.plan").write_text(PLAN.replace("place head on cpu run on cpu", "place head on cuda:0"))
    assert run_command(["--diff", "small.plan", "other.plan"], cwd=folder).code == 0
    assert "head" in run_command(["--diff", "small.plan", "other.plan"], cwd=folder).out
    assert run_command(["--diff", "small.plan", "other.plan", "--check"], cwd=folder).code == 3
    assert run_command(["--diff", "small.plan", "small.plan", "--check"], cwd=folder).code == 0


# what is not the user's fault


def test_a_bug_of_ours_is_exit_70_and_says_so(folder, monkeypatch):
    monkeypatch.setattr("compile_plan.compiler.cli.compiling.report", lambda *_, **__: 1 / 0)
    result = run_command(["small.plan"], cwd=folder)
    assert result.code == 70
    assert codes(result) == ["internal-error"]
    assert "ZeroDivisionError" in result.err
    assert "Traceback" not in result.err
    debugged = run_command(["small.plan"], cwd=folder, environ={"COMPILE_PLAN_DEBUG": "1"})
    assert "Traceback" in debugged.err


def test_an_interrupt_is_exit_130_without_words(folder, monkeypatch):
    def interrupted(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("compile_plan.backends.plan_files.os.fsync", interrupted)
    result = run_command(["small.plan", "-o", "out.msgpack"], cwd=folder)
    assert (result.code, result.err) == (cli.INTERRUPTED, "")
    assert [path.name for path in folder.iterdir()] == ["small.plan"]


def shell(arguments, folder, **more):
    command = [sys.executable, "-m", "compile_plan.compiler", *arguments]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)


def test_a_reader_that_leaves_is_no_error(folder):
    process = shell(["small.plan", "-o", "-"], folder)
    process.stdout.close()
    assert process.wait(timeout=60) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


def test_ctrl_c_in_a_shell_is_exit_130(folder):
    (folder / "slow.py").write_text("import time\nprint('loading', flush=True)\ntime.sleep(60)\n")
    # A shell that runs the tests in the background ignores SIGINT, and children inherit that.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = shell(["slow.py", "-o", "out.plan"], folder, preexec_fn=heed)
    assert process.stderr.readline() == b"loading\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, b"", b"")
    assert not (folder / "out.plan").exists()


def test_a_stream_without_unicode_gets_escapes_not_a_crash(folder):
    (folder / "small.plan").write_text(PLAN.replace("head", '"模型"'), encoding="utf-8")
    environ = {**os.environ, "PYTHONIOENCODING": "ascii"}
    process = shell(["small.plan"], folder, env=environ)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")
    assert b"\\u6a21" in out
    assert b"####" in out

"""Nothing escapes and nothing is lost, wherever results go and whatever things are called."""

from __future__ import annotations

import errno
import json
import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from command import run_command
from compile_plan.backends import encode, read_plan, whole_files, write_plan
from compile_plan.grammar import parse
from compile_plan.ir import Account, Device, Diagnostic, Model, Plan, PlanError, Unit
from compile_plan.ir.rules.searching import SPILL

PLAN = Plan(Model("m"), devices=(Device("cpu", 100),), units=(Unit("a", "cpu", "cpu"),))
STEERING = "\x1b]0;owned\x07\x1b[31m"
HIDING = "\u202e\u2066"
NASTY = f"a{STEERING}b{HIDING}\x9b1m\r</title><script>"
COMMAND = [sys.executable, "-m", "compile_plan.compiler"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_plan(PLAN, tmp_path / "p.msgpack")
    return tmp_path


def in_a_shell(arguments, redirection):
    script = f"{shlex.join(COMMAND)} {arguments} {redirection}"
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)


def codes(call, *arguments):
    with pytest.raises(PlanError) as caught:
        call(*arguments)
    return [found.code for found in caught.value.diagnostics]


PRINTING = (
    "p.msgpack",
    "p.msgpack --format json",
    "p.msgpack -o -",
    "p.msgpack --to msgpack",
    "--help",
    "--version",
)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("arguments", PRINTING)
@pytest.mark.parametrize(("redirection", "code"), [(">/dev/full", "disk-full"), (">&-", "write-failed")])
def test_a_full_or_closed_standard_output_is_an_error_with_a_code(arguments, redirection, code):
    done = in_a_shell(arguments, redirection)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert f"error[{code}]" in done.stderr


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-", ">&- 2>&-", ">/dev/full 2>/dev/full"])
def test_without_a_standard_error_the_exit_code_is_what_is_left(folder, redirection):
    assert in_a_shell("missing.plan", redirection).returncode == 1
    assert in_a_shell("p.msgpack -o q.plan --quiet", redirection).returncode == 0
    assert read_plan(folder / "q.plan").units == PLAN.units


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link.plan"])
def test_what_stands_before_an_appended_result_stays(folder, name):
    (folder / "link.plan").symlink_to("/dev/stdout")
    (folder / "log").write_text("before\n")
    assert in_a_shell(f"p.msgpack --to plan -o {name}", ">> log").returncode == 0
    before, _, rest = (folder / "log").read_text().partition("\n")
    assert before == "before"
    assert parse(rest).units == PLAN.units


def test_an_open_file_is_written_to_from_where_it_is(folder):
    with (folder / "log").open("ab+") as log:
        log.write(b"before\n")
        log.flush()
        (folder / "link.plan").symlink_to(f"/dev/fd/{log.fileno()}")
        write_plan(PLAN, folder / "link.plan")
    assert (folder / "log").read_bytes() == b"before\n" + encode(PLAN, "plan")


def test_what_a_model_file_prints_is_not_in_the_result(folder):
    pytest.importorskip("torch")
    (folder / "model.py").write_text(
        "import os, sys\nfrom torch import nn\nprint('noise')\nos.write(1, b'more noise')\n"
        "sys.__stdout__.write('and more')\nmodel = nn.Linear(2, 2)\n"
    )
    done = in_a_shell("model.py --memory cpu=1MiB --format json", "")
    assert json.loads(done.stdout)["model"]["name"] == "model"
    assert "noise" in done.stderr
    assert parse(in_a_shell("model.py --memory cpu=1MiB -o -", "").stdout).units


@pytest.mark.parametrize("form", ["plan", "html"])
def test_names_that_steer_or_hide_are_escaped_in_files_for_people(form):
    spill = Diagnostic(SPILL, f"`{NASTY}` spills", notes=(NASTY,), help=NASTY)
    plan = Plan(
        Model(NASTY),
        devices=(Device("cpu", 100, origin=NASTY, at=NASTY),),
        units=(Unit(NASTY, "cpu", "cpu"),),
        ledger=(Account("cpu", weights=4),),
        diagnostics=(spill,),
    )
    text = encode(plan, form).decode()
    assert not {*"\x1b\x07\x9b\r", *HIDING} & {*text}
    assert form == "plan" or text.count("<script>") == 1  # the page's own
    assert form == "plan" or "</title><script>" not in text
    if form == "plan":
        assert parse(text).units == plan.units


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    "arguments", [["x"], ["x", "--format-plan", "x"], ["p.msgpack", "-o", "x"], ["--diff", "x", "x"]]
)
def test_the_name_of_a_file_cannot_steer_the_terminal(arguments):
    name = f"n{STEERING}{HIDING}.plan"
    result = run_command([name if word == "x" else word for word in arguments])
    assert not {*"\x1b\x07", *HIDING} & {*result.out, *result.err}


def test_machines_get_names_as_they_are(folder):
    plan = Plan(Model(NASTY), devices=(Device("cpu", 100),), units=(Unit(NASTY, "cpu", "cpu"),))
    write_plan(plan, folder / "n.msgpack")
    found = json.loads(run_command(["n.msgpack", "--format", "json"]).out)
    assert found["model"]["name"] == NASTY
    assert found["units"][0]["path"] == NASTY


@pytest.mark.parametrize("name", ["$(touch pwned)", "a; touch pwned", "it's", "a b"])
def test_commands_in_help_can_be_pasted(folder, name):
    result = run_command(["p.msgpack", "-o", f"{name}/p.plan"])
    command = result.err.partition("run `")[2].rpartition("` first")[0]
    subprocess.run(["bash", "-c", command], check=True)
    assert sorted(path.name for path in folder.iterdir()) == sorted([name, "p.msgpack"])
    (folder / name / "p.plan").write_text("plan 1\nplace   a on cpu\n")
    result = run_command(["--format-plan", f"{name}/p.plan", "--check"])
    command = result.err.partition("run `compile-plan ")[2].rpartition("`")[0]
    assert run_command(shlex.split(command)).code == 0
    assert run_command(["--format-plan", f"{name}/p.plan", "--check"]).code == 0


def test_links_that_go_round_are_an_error(folder):
    (folder / "a.plan").symlink_to("b.plan")
    (folder / "b.plan").symlink_to("a.plan")
    (folder / "loop").symlink_to("loop")
    assert codes(write_plan, PLAN, folder / "a.plan") == ["write-failed"]
    assert codes(write_plan, PLAN, folder / "loop" / "c.plan") == ["write-failed"]
    assert codes(read_plan, folder / "a.plan") == ["read-failed"]
    for arguments in (["p.msgpack", "-o", "a.plan"], ["p.msgpack", "-o", "loop/a.plan"], ["a.plan"]):
        assert run_command(arguments).code == 1


@pytest.mark.parametrize(
    "name", [f"{'a' * 300}.plan", f"{'a' * 300}/b.plan", f"{'a/' * 3000}b.plan", "a\0b.plan"]
)
def test_what_no_file_can_be_called_is_an_error(folder, name):
    assert len(codes(write_plan, PLAN, name)) == 1
    assert len(codes(read_plan, name)) == 1
    for arguments in (
        ["p.msgpack", "-o", name],
        [name],
        ["p.msgpack", "--override", name],
        ["--format-plan", name],
    ):
        assert run_command(arguments).code == 1
    assert [path.name for path in folder.iterdir()] == ["p.msgpack"]


def test_owner_group_and_mode_of_a_replaced_file_stay(folder, monkeypatch):
    path = folder / "p.msgpack"
    path.chmod(0o2640)
    given = []
    monkeypatch.setattr(os, "fchown", lambda _, owner, group: given.append((owner, group)))
    write_plan(PLAN, path)
    assert given == [(path.stat().st_uid, path.stat().st_gid)]
    assert stat.S_IMODE(path.stat().st_mode) == 0o2640


def test_a_group_that_cannot_be_kept_gives_no_other_group_its_rights(folder, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EPERM, "not yours")

    path = folder / "p.msgpack"
    path.chmod(0o660)
    monkeypatch.setattr(os, "fchown", refuse)
    write_plan(PLAN, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


KILLED = """
import os, signal
from compile_plan.backends import whole_files
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
whole_files.write_whole(b"half", whole_files.Path("p.msgpack"))
"""


def test_what_a_killed_run_left_is_removed_by_the_next(folder):
    done = subprocess.run([sys.executable, "-c", KILLED], check=False)
    assert done.returncode == -9
    assert len(list(folder.iterdir())) == 2
    (folder / ".compile-plan-notes.txt").touch()
    (folder / ".compile-plan-abcdefgh").mkdir()
    write_plan(PLAN, folder / "other.plan")
    names = {".compile-plan-abcdefgh", ".compile-plan-notes.txt", "other.plan", "p.msgpack"}
    assert {path.name for path in folder.iterdir()} == names


@pytest.mark.skipif(whole_files.fcntl is None, reason="files cannot be locked here")
def test_what_another_run_is_writing_stays(folder, monkeypatch):
    flushed = os.fsync

    def meanwhile(handle):
        monkeypatch.setattr(os, "fsync", flushed)
        script = "from compile_plan.backends import whole_files as w; w.write_whole(b'x', w.Path('y'))"
        subprocess.run([sys.executable, "-c", script], check=True)
        flushed(handle)

    monkeypatch.setattr(os, "fsync", meanwhile)
    write_plan(PLAN, folder / "q.msgpack")
    assert read_plan(folder / "q.msgpack") == PLAN
    assert {path.name for path in Path().iterdir()} == {"p.msgpack", "q.msgpack", "y"}

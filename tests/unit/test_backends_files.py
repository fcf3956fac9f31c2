from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from command import run_command
from compile_plan.backends import BACKENDS, backend_for, encode, read_plan, write_plan
from compile_plan.backends import plan_files as files_module
from compile_plan.ir import Device, Model, Plan, PlanError, Unit
from planfile_strategies import tree_of

PLAN = Plan(
    Model("m"),
    (Device("cuda:0", 100), Device("cpu", None)),
    units=(Unit("a", "cuda:0", "cuda:0"), Unit("b", "cpu", "cuda:0")),
)


def codes(call, *arguments) -> list[str]:
    with pytest.raises(PlanError) as caught:
        call(*arguments)
    return [d.code for d in caught.value.diagnostics]


@pytest.mark.parametrize("suffix", [".plan", ".msgpack"])
def test_a_written_plan_reads_back(tmp_path, suffix):
    path = tmp_path / f"m{suffix}"
    write_plan(PLAN, path)
    assert read_plan(path) == PLAN
    assert path.read_bytes() == encode(PLAN, backend_for(path).name)


def test_a_device_map_reads_back_as_places(tmp_path):
    write_plan(PLAN, tmp_path / "m.json")
    assert read_plan(tmp_path / "m.json").units == PLAN.units


def test_every_form_has_its_own_suffix_and_says_what_it_holds():
    assert [backend.suffix for backend in BACKENDS.values()] == [".plan", ".msgpack", ".json", ".html"]
    assert all(backend.expresses for backend in BACKENDS.values())
    assert backend_for("UP.JSON").name == "device-map"


def test_unknown_forms_are_named(tmp_path):
    assert codes(backend_for, "plan.yaml") == ["unknown-form"]
    assert codes(encode, PLAN, "yaml") == ["unknown-form"]
    assert codes(read_plan, tmp_path / "report.html") == ["write-only-form"]


def test_a_plan_that_breaks_a_law_is_not_read(tmp_path):
    tree = tree_of({"a.weight": 4, "b.weight": 4})
    write_plan(Plan(Model("m"), PLAN.devices, units=PLAN.units[:1], tree=tree), tmp_path / "m.msgpack")
    assert codes(read_plan, tmp_path / "m.msgpack") == ["tensor-without-place"]


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("m.msgpack", b"PK\x03\x04rest", "not-a-plan-file"),
        ("m.plan", b"\xff\xfe", "not-text"),
        ("m.json", b"{", "not-a-plan-file"),
    ],
)
def test_other_content_is_refused(tmp_path, name, content, code):
    (tmp_path / name).write_bytes(content)
    assert codes(read_plan, tmp_path / name) == [code]


def test_reading_what_is_not_there(tmp_path):
    (tmp_path / "folder.plan").mkdir()
    (tmp_path / "file").touch()
    assert codes(read_plan, tmp_path / "none.plan") == ["no-such-file"]
    assert codes(read_plan, tmp_path / "file" / "none.plan") == ["no-such-file"]
    assert codes(read_plan, tmp_path / "folder.plan") == ["is-a-directory"]


def test_endless_input_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(files_module, "MAX_FILE", 1000)
    (tmp_path / "zero.msgpack").symlink_to("/dev/zero")
    assert codes(read_plan, tmp_path / "zero.msgpack") == ["file-too-large"]


def test_writing_where_nothing_can_be_written(tmp_path):
    (tmp_path / "folder.plan").mkdir()
    (tmp_path / "file").touch()
    assert codes(write_plan, PLAN, tmp_path / "none" / "m.msgpack") == ["no-such-folder"]
    assert codes(write_plan, PLAN, tmp_path / "file" / "m.msgpack") == ["no-such-folder"]
    (tmp_path / "folder.msgpack").mkdir()
    assert codes(write_plan, PLAN, tmp_path / "folder.msgpack") == ["is-a-directory"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_writing_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    assert codes(write_plan, PLAN, tmp_path / "m.msgpack") == ["permission-denied"]


@pytest.mark.parametrize(
    ("number", "code"),
    [(errno.ENOSPC, "disk-full"), (errno.EACCES, "permission-denied"), (errno.EIO, "write-failed")],
)
def test_a_failing_disk_leaves_what_was_there(tmp_path, monkeypatch, number, code):
    path = tmp_path / "m.msgpack"
    path.write_bytes(b"before")

    def fail(_handle):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    assert codes(write_plan, PLAN, path) == [code]
    assert [p.name for p in tmp_path.iterdir()] == ["m.msgpack"]
    assert path.read_bytes() == b"before"


def test_ctrl_c_while_writing_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(_handle):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_plan(PLAN, tmp_path / "m.msgpack")
    assert list(tmp_path.iterdir()) == []


def test_a_plan_no_form_can_hold_leaves_nothing(tmp_path):
    assert codes(write_plan, Plan(Model("m"), units=(Unit("a"),)), tmp_path / "m.json") == ["unplaced-unit"]
    assert list(tmp_path.iterdir()) == []


def test_links_stay_links_and_modes_stay(tmp_path):
    target = tmp_path / "real.msgpack"
    target.touch(mode=0o640)
    target.chmod(0o640)
    (tmp_path / "link.msgpack").symlink_to(target)
    write_plan(PLAN, tmp_path / "link.msgpack")
    assert (tmp_path / "link.msgpack").is_symlink()
    assert read_plan(target) == PLAN
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_new_files_get_the_mode_of_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        write_plan(PLAN, tmp_path / "m.msgpack")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "m.msgpack").stat().st_mode) == 0o640


def test_the_forms_open_no_library_before_one_is_needed():
    script = (
        "import sys; from compile_plan import backends; from compile_plan.ir import Plan, Model; "
        "backends.encode(Plan(Model('m')), 'plan'); backends.encode(Plan(Model('m')), 'html'); "
        "print({'torch', 'lark', 'msgpack'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_neither_torch_nor_lark_is_loaded_for_the_plan_file():
    script = (
        "import sys; from compile_plan import backends; from compile_plan.ir import Plan, Model; "
        "backends.encode(Plan(Model('m')), 'msgpack'); backends.encode(Plan(Model('m')), 'html'); "
        "print({'torch', 'lark', 'numpy', 'highspy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_pipe_is_written_to(tmp_path):
    pipe = tmp_path / "pipe.msgpack"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE)
    write_plan(PLAN, pipe)
    assert reader.communicate()[0] == encode(PLAN, "msgpack")
    assert stat.S_ISFIFO(Path(pipe).stat().st_mode)


def test_formatting_on_a_full_disk_is_an_error_and_changes_nothing(tmp_path, monkeypatch):
    path = tmp_path / "a.plan"
    path.write_text("plan 1\nplace   a on cpu\n")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    result = run_command(["--format-plan", str(path)])
    assert result.code == 1
    assert "error[disk-full]" in result.err
    assert path.read_text() == "plan 1\nplace   a on cpu\n"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("arguments", [["--format-plan", "/dev/zero"], ["a.plan", "--override", "/dev/zero"]])
def test_an_endless_text_is_not_read(tmp_path, monkeypatch, arguments):
    monkeypatch.setattr("compile_plan.backends.plan_files.MAX_FILE", 1000)
    (tmp_path / "a.plan").write_text("plan 1\nplace a on cpu\n")
    result = run_command(arguments, cwd=tmp_path)
    assert result.code == 1
    assert "error[file-too-large]" in result.err


def test_importing_the_forms_opens_neither_the_language_nor_a_report():
    script = (
        "import sys, compile_plan.backends; print(*(name for name in sys.modules if 'compile_plan.' in name))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"compile_plan.grammar", "compile_plan.backends.html_report"} & set(done.stdout.split())

"""``--calibrate``: what is measured is a machine description the command accepts, and can be kept."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from command import run_command
from compile_plan.compiler.cli import calibrating
from compile_plan.compiler.machine import calibration
from compile_plan.compiler.machine.calibration import Products, Sizes, Speed
from compile_plan.compiler.machine.machine_file import (
    encoded,
    machine_path,
    read_machine,
    with_measured,
    with_rates,
)
from compile_plan.compiler.machine.products import known_product, with_published
from compile_plan.grammar import parse
from compile_plan.ir import Device, Diagnostics

PRODUCTS = {"float16": Products(8 * 10**11, 10**14, 7 * 10**11)}
MEASURED = Speed("cuda:0", "Card X", 10**12, 55 * 10**9, 2e-5, PRODUCTS)


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    monkeypatch.setattr(calibrating, "SIZES", Sizes(2**20, 2**20, 128, 8))
    monkeypatch.setattr(calibration, "SECONDS", 0.01)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def test_the_measured_lines_describe_a_machine(tmp_path):
    result = run_command(["--calibrate"], cwd=tmp_path)
    assert result.code == 0
    devices = {device.name: device for device in parse(result.out).devices}
    assert devices["cpu"].bandwidth > 0
    assert dict(devices["cpu"].dtype_flops)["float32"] > 0
    assert devices["disk"].link > 0
    assert devices["cpu"].few > 0
    assert not machine_path().exists()
    (tmp_path / "machine.plan").write_text(result.out, encoding="utf-8")
    (tmp_path / "m.plan").write_text("plan 1\nmodule a : Linear 1KiB\n", encoding="utf-8")
    planned = run_command(["m.plan", "--override", "machine.plan", "-o", "-"], cwd=tmp_path)
    assert planned.code == 0, planned.err
    assert parse(planned.out).devices == parse(result.out).devices


def test_what_is_saved_is_read_by_later_compiles(tmp_path):
    saved = run_command(["--calibrate", "--save"], cwd=tmp_path)
    assert saved.code == 0
    assert str(machine_path()) in saved.out
    (measured,) = [d for d in parse(saved.out).devices if d.name == "cpu"]
    (tmp_path / "m.plan").write_text("plan 1\nmodule a : Linear 1KiB\n", encoding="utf-8")
    planned = run_command(["m.plan", "--memory", "cpu=1GiB", "-o", "-"], cwd=tmp_path)
    (device,) = parse(planned.out).devices
    assert (device.memory, device.dtype_flops) == (2**30, measured.dtype_flops)


def test_a_file_that_is_no_machine_file_is_named_and_left_alone(tmp_path):
    machine_path().parent.mkdir(parents=True)
    for text in ("{", "[]", '{"format": "compile-plan machine", "version": 7, "devices": {}}', "[" * 9999):
        machine_path().write_text(text)
        (tmp_path / "m.plan").write_text("plan 1\nmodule a : Linear 1KiB\n", encoding="utf-8")
        planned = run_command(["m.plan", "--memory", "cpu=1GiB", "-o", "-"], cwd=tmp_path)
        assert planned.code == 0
        assert "warning[bad-machine-file]" in planned.err
        assert machine_path().read_text() == text


@pytest.mark.parametrize("rate", [0, -1, True, "9", None, float("nan"), float("inf"), 10**400, 1e300, 0.4])
def test_a_rate_that_is_none_is_no_rate(rate):
    content = json.loads(encoded([MEASURED]))
    content["devices"]["cuda:0"]["products"]["float16"]["reads"] = rate
    machine_path().parent.mkdir(parents=True)
    machine_path().write_text(json.dumps(content))
    diagnostics = Diagnostics()
    assert read_machine(machine_path(), diagnostics) == ()
    assert [d.code for d in diagnostics] == ["bad-machine-file"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content.pop("devices"), "it has no `devices`"),
        (lambda content: content.update(devices=[]), "it is not laid out as one"),
        (lambda content: content["devices"]["cuda:0"].update(hop=1e300), "`1e+300` is no rate"),
        (lambda content: content["devices"]["cuda:0"].update(products=[1]), "it is not laid out as one"),
        (
            lambda content: content["devices"]["cuda:0"]["products"].update({"float32 x": {}}),
            "`float32 x` is no dtype",
        ),
    ],
)
def test_a_file_with_anything_else_in_it_is_named(change, said):
    content = json.loads(encoded([MEASURED]))
    change(content)
    machine_path().parent.mkdir(parents=True)
    machine_path().write_text(json.dumps(content))
    diagnostics = Diagnostics()
    assert read_machine(machine_path(), diagnostics) == ()
    (warning,) = diagnostics
    assert (warning.code, warning.message.partition("used: ")[2]) == ("bad-machine-file", said)


def test_what_is_no_regular_file_is_named():
    machine_path().mkdir(parents=True)
    diagnostics = Diagnostics()
    assert read_machine(machine_path(), diagnostics) == ()
    assert "it is no regular file" in next(iter(diagnostics)).message


@pytest.mark.parametrize("option", [["--save"], ["--save", "lab"]])
@pytest.mark.parametrize("folder", ["/dev/null", "/proc/nothing", "file", "n" * 300])
def test_what_cannot_be_kept_is_printed_and_nothing_is_written(tmp_path, monkeypatch, option, folder):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / folder))
    result = run_command(["--calibrate", *option], cwd=tmp_path)
    assert result.code == 1
    assert re.match(r"error\[(no-such-folder|write-failed|permission-denied)\]", result.err)
    assert {device.name for device in parse(result.out).devices} >= {"cpu", "disk"}
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("told", ["", "relative/folder", "~/elsewhere"])
def test_a_variable_that_is_no_absolute_path_is_as_good_as_none(monkeypatch, told):
    monkeypatch.setenv("XDG_CONFIG_HOME", told)
    monkeypatch.setenv("HOME", "/home/me")
    assert machine_path() == Path("/home/me/.config/compile-plan/machine.json")


def test_a_user_without_a_home_has_a_path_as_well(monkeypatch):
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as it does where nobody knows the user
    assert machine_path() == Path("/.config/compile-plan/machine.json")


def test_a_host_with_another_processor_is_not_believed_to_be_as_fast(tmp_path, monkeypatch):
    assert run_command(["--calibrate", "--save"], cwd=tmp_path).code == 0
    known = with_rates([Device("cpu", 1), Device("disk", 1)], None, Diagnostics())
    assert [device.measured for device in known] == ["measured here"] * 2
    monkeypatch.setattr("compile_plan.compiler.machine.machine_file.host_product", lambda: "another one")
    assert with_rates([Device("cpu", 1)], None, Diagnostics()) == (Device("cpu", 1),)
    assert with_rates([Device("disk", 1)], None, Diagnostics()) == (Device("disk", 1),)


def test_a_disk_without_room_is_said_and_the_rest_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "not there"))
    result = run_command(["--calibrate", "--save"], cwd=tmp_path)
    assert result.code == 0
    assert "warning[not-measured]: the disk was not measured" in result.err
    assert {device.name: device.link for device in parse(result.out).devices}["disk"] is None
    assert {speed.name for speed in read_machine(machine_path(), Diagnostics())} >= {"cpu", "disk"}


def test_nothing_is_left_of_the_file_a_disk_is_measured_by(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    seen = []

    def looked_at(step):
        step()
        seen.append(list(tmp_path.iterdir()))
        return 1.0

    monkeypatch.setattr(calibration, "best", looked_at)
    assert calibration.disk_rate(str(tmp_path), 2**20) > 0
    assert seen == [[]]


def test_an_interrupt_leaves_what_was_kept(tmp_path, monkeypatch):
    assert run_command(["--calibrate", "--save"], cwd=tmp_path).code == 0
    before = machine_path().read_bytes()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(calibration, "disk_rate", interrupted)
    assert run_command(["--calibrate", "--save"], cwd=tmp_path).code == 130
    assert machine_path().read_bytes() == before
    assert [path.name for path in machine_path().parent.iterdir()] == ["machine.json"]


def test_speeds_come_back_as_they_were_kept():
    machine_path().parent.mkdir(parents=True)
    machine_path().write_text(encoded([MEASURED]))
    assert read_machine(machine_path(), Diagnostics()) == (MEASURED,)


def test_a_file_without_the_rate_of_a_few_rows_is_read():
    content = json.loads(encoded([MEASURED]))
    del content["devices"]["cuda:0"]["products"]["float16"]["few"]
    machine_path().parent.mkdir(parents=True)
    machine_path().write_text(json.dumps(content))
    (speed,) = read_machine(machine_path(), Diagnostics())
    assert speed.products["float16"] == Products(8 * 10**11, 10**14)


def test_what_a_line_states_stays_and_another_product_is_not_believed():
    stated = Device("cuda:0", 1, bandwidth=7)
    (rated,) = with_measured([stated], [MEASURED], "float16")
    assert (rated.bandwidth, rated.link, rated.latency) == (7, 55 * 10**9, 20_000)
    assert rated.few == 7 * 10**11
    assert (dict(rated.dtype_flops), rated.measured) == ({"float16": 10**14}, "measured here")
    other = Device("cuda:0", 1, origin="free on this machine, by nvidia-smi (Card Y)")
    assert with_measured([other], [MEASURED], "float16") == (other,)


def test_a_known_product_has_its_published_rates():
    card = Device("cuda:0", 1, origin="free on this machine, by torch (NVIDIA GeForce RTX 4090)")
    (rated,) = with_published([card])
    assert (rated.bandwidth, rated.measured) == (1008 * 10**9, "data sheet of RTX 4090")
    assert known_product("NVIDIA A100-SXM4-80GB") == "A100"
    assert known_product("NVIDIA L40S") == "L40S"
    assert with_published([Device("cuda:0", 1)]) == (Device("cuda:0", 1),)


def test_seconds_are_those_of_the_fastest_run_after_a_first(monkeypatch):
    pauses = iter([0.0, 0.02, 0.01, 0.02, 0.02, 0.02, 0.02, 0.02])
    monkeypatch.setattr(calibration, "SECONDS", 9.0)
    assert 0.01 <= calibration.best(lambda: time.sleep(next(pauses))) < 0.02


def test_a_step_may_time_itself(monkeypatch):
    told = iter([9.0, 3.0, 2.0, 3.0, 3.0, 3.0, 3.0, 3.0])
    monkeypatch.setattr(calibration, "SECONDS", 9.0)
    assert calibration.best(lambda: next(told)) == 2.0


def test_rates_keep_two_digits():
    assert [calibration.rounded(n) for n in (0.4, 7, 1234, 98_765_432)] == [0, 7, 1200, 99_000_000]


def test_save_goes_with_calibrate_and_an_input_does_not(tmp_path):
    assert run_command(["m.plan", "--save"], cwd=tmp_path).code == 2
    assert run_command(["m.plan", "--calibrate"], cwd=tmp_path).code == 2

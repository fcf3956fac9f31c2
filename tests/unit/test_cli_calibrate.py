"""``--calibrate``: what is measured is a machine description the command itself accepts."""

from __future__ import annotations

import time

import pytest
from command import run_command
from compile_plan.compiler.cli import calibrating
from compile_plan.grammar import parse


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(calibrating, "_BYTES", 2**20)


def test_the_measured_lines_describe_a_machine(tmp_path):
    result = run_command(["--calibrate"], cwd=tmp_path)
    assert result.code == 0
    devices = {device.name: device for device in parse(result.out).devices}
    assert devices["cpu"].bandwidth > 0
    assert devices["disk"].link > 0
    (tmp_path / "machine.plan").write_text(result.out, encoding="utf-8")
    (tmp_path / "m.plan").write_text("plan 1\nmodule a : Linear 1KiB\n", encoding="utf-8")
    planned = run_command(["m.plan", "--override", "machine.plan", "-o", "-"], cwd=tmp_path)
    assert planned.code == 0, planned.err
    assert parse(planned.out).devices == parse(result.out).devices


def test_a_rate_is_bytes_by_the_fastest_run_in_two_digits():
    pauses = iter([0.02, 0.01, 0.02, 0.02, 0.02])
    found = calibrating.rate(lambda: time.sleep(next(pauses)), 1_000_000)
    assert 20_000_000 <= found <= 100_000_000
    assert found % 1_000_000 == 0


def test_a_slow_device_takes_one_round(monkeypatch):
    monkeypatch.setattr(calibrating, "_SECONDS", 0.0)
    rounds = []
    calibrating.rate(lambda: rounds.append(time.sleep(0.001)), 1000)
    assert len(rounds) == 1


def test_an_input_has_no_part_in_it(tmp_path):
    assert run_command(["m.plan", "--calibrate"], cwd=tmp_path).code == 2

"""The solver: nothing of it is heard."""

from __future__ import annotations

import ctypes
import os

import highspy
import pytest
from compile_plan.compiler.search.highs import Program, solve


@pytest.fixture
def greeting(monkeypatch):
    """A solver that greets on standard output while it is made, as HiGHS 1.16 does."""
    silent = highspy.Highs

    def greet():
        ctypes.CDLL(None).printf(b"Running HiGHS 1.16.0: Copyright (c) 2026\n")
        return silent()

    monkeypatch.setattr(highspy, "Highs", greet)


@pytest.mark.usefixtures("greeting")
def test_a_greeting_solver_is_not_heard(capfd):
    program = Program()
    program.at_most(-1.5, [(program.column(cost=1.0, upper=9), -1.0)])
    os.write(1, b"before\n")
    assert solve(program).values == (2.0,)
    ctypes.CDLL(None).fflush(None)
    os.write(1, b"after\n")
    assert capfd.readouterr().out == "before\nafter\n"

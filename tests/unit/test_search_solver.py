"""The solver: nothing of it is heard."""

from __future__ import annotations

import ctypes
import os

import highspy
import pytest
from compile_plan.compiler.search import highs
from compile_plan.compiler.search.highs import NODE_LIMIT, Program, solve


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


@pytest.mark.parametrize(
    ("columns", "asked", "given"), [(3, 20, 20), (3, NODE_LIMIT, NODE_LIMIT), (40, 20, 20), (40, 900, 300)]
)
def test_a_program_gets_the_nodes_asked_for_unless_it_is_large(monkeypatch, columns, asked, given):
    """The least that a large program is left is no reason to give a small window more than it wants."""
    options = {}
    real = highspy.Highs

    class Watched(real):
        def setOptionValue(self, name, value):  # noqa: N802  # the solver's own
            options[name] = value
            return super().setOptionValue(name, value)

    monkeypatch.setattr(highspy, "Highs", Watched)
    monkeypatch.setattr(highs, "NODE_COLUMNS", 12_000 if columns > 3 else highs.NODE_COLUMNS)
    program = Program()
    program.at_most(-1.0, [(program.column(cost=1.0), -1.0) for _ in range(columns)])
    assert solve(program, nodes=asked).value == 1
    assert options["mip_max_nodes"] == given


def test_numbers_that_are_too_large_for_it_are_no_crash():
    program = Program()
    program.at_most(-1.0, [(program.column(cost=1.0, upper=9), -1e20)])
    assert solve(program).status == "limit"

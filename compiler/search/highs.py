"""The one door to the solver: a mixed-integer program as plain rows and columns, solved by HiGHS.

Single-threaded with a fixed seed, and bounded by nodes: machines of different speed give the same
answer. What the clock ends has none, so that no answer depends on it. Standard output is the plan's
alone: the solver is never heard there.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from math import inf
from threading import Lock
from typing import Final

NODE_LIMIT: Final = 10_000
NODE_COLUMNS: Final = 2_000_000
"""What nodes may add up to, each counted by its columns: a few seconds on any machine of today."""
LEAST_NODES: Final = 200
"""What the size of a program leaves it; who asks for fewer gets fewer."""
MOST_COLUMNS: Final = 50_000
"""Larger programs are not begun: preparing them outlasts any limit of time, which is not looked at then."""
_GUARD: Final = Lock()


@dataclass(slots=True)
class Program:
    """Minimise ``costs`` over columns between 0 and their upper bounds, within the rows."""

    costs: list[float] = field(default_factory=list[float])
    uppers: list[float] = field(default_factory=list[float])
    integers: list[bool] = field(default_factory=list[bool])
    rows: list[tuple[float, float, list[tuple[int, float]]]] = field(
        default_factory=list[tuple[float, float, list[tuple[int, float]]]]
    )

    def column(self, cost: float = 0.0, upper: float = 1.0, *, integer: bool = True) -> int:
        """Add a column and return its index."""
        self.costs.append(cost)
        self.uppers.append(upper)
        self.integers.append(integer)
        return len(self.costs) - 1

    def at_most(self, limit: float, terms: list[tuple[int, float]]) -> None:
        """Add the row ``sum(terms) <= limit``; terms of one column are added up."""
        self.rows.append((-inf, limit, _added_up(terms)))

    def equal(self, value: float, terms: list[tuple[int, float]]) -> None:
        """Add the row ``sum(terms) == value``."""
        self.rows.append((value, value, _added_up(terms)))


def _added_up(terms: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return one term a column: the solver refuses rows that name a column twice."""
    added: dict[int, float] = {}
    for column, coefficient in terms:
        added[column] = added.get(column, 0.0) + coefficient
    return list(added.items())


@dataclass(frozen=True, slots=True)
class Answer:
    """What the solver found; ``values`` is empty when it found nothing."""

    status: str
    """``optimal``, ``infeasible``, ``limit`` (of nodes) or ``clock``."""
    values: tuple[float, ...]
    value: float
    bound: float


def solve(
    program: Program,
    *,
    seconds: float = inf,
    nodes: int = NODE_LIMIT,
    gap: float = 0.0,
) -> Answer:
    """Solve a program within the limits; large ones may open fewer nodes."""
    if any(not terms and not low <= 0 <= high for low, high, terms in program.rows):
        return Answer("infeasible", (), inf, inf)  # what may be nowhere needs no solver
    if len(program.costs) > MOST_COLUMNS:
        return Answer("limit", (), inf, -inf)
    if seconds <= 0:
        return Answer("clock", (), inf, -inf)
    import highspy
    import numpy as np

    with _silent_output():
        solver = highspy.Highs()  # type: ignore[no-untyped-call]
    options = {
        "output_flag": False, "log_to_console": False, "threads": 1, "random_seed": 0, "time_limit": seconds,
        "mip_max_nodes": min(nodes, max(LEAST_NODES, NODE_COLUMNS // max(len(program.costs), 1))),
        "mip_rel_gap": gap, "mip_abs_gap": 1e-9,
        "mip_feasibility_tolerance": 1e-9, "primal_feasibility_tolerance": 1e-9,
    }  # fmt: skip
    for name, value in options.items():
        solver.setOptionValue(name, value)
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = len(program.costs), len(program.rows)
    lp.col_cost_ = np.array(program.costs, dtype=np.double)
    lp.col_lower_ = np.zeros(lp.num_col_)
    lp.col_upper_ = np.array(program.uppers, dtype=np.double)
    lp.row_lower_ = np.array([row[0] for row in program.rows], dtype=np.double)
    lp.row_upper_ = np.array([row[1] for row in program.rows], dtype=np.double)
    kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
    lp.integrality_ = [kinds[integer] for integer in program.integers]
    terms = [row[2] for row in program.rows]
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    lp.a_matrix_.start_ = np.cumsum([0, *(len(row) for row in terms)], dtype=np.int32)
    lp.a_matrix_.index_ = np.array([col for row in terms for col, _ in row], dtype=np.int32)
    lp.a_matrix_.value_ = np.array([coefficient for row in terms for _, coefficient in row], dtype=np.double)
    if solver.passModel(lp) == highspy.HighsStatus.kError:  # numbers larger than it takes: a cache of 10^18
        return Answer("limit", (), inf, -inf)
    solver.run()
    return _answer(solver, highspy.HighsModelStatus)


@contextmanager
def _silent_output() -> Iterator[None]:
    """Send what C writes to standard output nowhere: HiGHS 1.16 greets before an option can forbid it."""
    with _GUARD:  # two guards at once would restore each other's null device
        try:
            real = os.dup(1)
        except OSError:  # there is no standard output to guard
            yield
            return
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        try:
            yield
        finally:
            with suppress(OSError, TypeError, AttributeError):  # no C library by that name
                ctypes.CDLL(None).fflush(None)  # C keeps what it writes to a pipe
            os.dup2(real, 1)
            os.close(real)
            os.close(null)


def _answer(solver: object, statuses: object) -> Answer:
    status = solver.getModelStatus()  # type: ignore[attr-defined]
    info = solver.getInfo()  # type: ignore[attr-defined]
    if status in {statuses.kInfeasible, statuses.kUnboundedOrInfeasible}:  # type: ignore[attr-defined]
        return Answer("infeasible", (), inf, inf)
    if status == statuses.kTimeLimit:  # type: ignore[attr-defined]
        return Answer("clock", (), inf, -inf)
    values: tuple[float, ...] = ()
    if info.primal_solution_status == 2:
        values = tuple(solver.getSolution().col_value)  # type: ignore[attr-defined]
    word = "optimal" if status == statuses.kOptimal else "limit"  # type: ignore[attr-defined]
    value = info.objective_function_value if values else inf
    return Answer(word, values, value, info.mip_dual_bound)

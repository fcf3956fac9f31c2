"""``--dtype`` with several names: what the model takes in each of them, what spills, how quick it is."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from typing import Final

from ...backends.predictions import timed_text
from ...ir import Diagnostic, Plan, PlanError, human_size, is_accelerator
from ...ir.rules.usage import OPTION_WITHOUT_EFFECT
from ..driver.effects import Holding
from ..driver.inputs import compile_opened, open_input
from ..driver.workload import with_workload
from ..lines.files import read_overrides
from .compiling import with_links
from .console import Console
from .contents import Contents
from .values import Request, spelled

_READ_IN_A_DTYPE: Final = frozenset({Holding.CONFIG, Holding.HEADERS})
"""What a dtype is told of when it is opened."""


@dataclass(frozen=True, slots=True)
class _Row:
    dtype: str
    nbytes: int | None = None
    off_accelerators: int | None = None
    token_seconds: float | None = None
    refused: str = ""
    """Why there is no plan."""


def print_dtype_table(request: Request, console: Console) -> int:
    """Print a line per dtype; nothing is written, since a plan has one dtype."""
    assert request.input is not None  # noqa: S101  # checked with the usage
    if request.output is not None:
        message = "`--output` has no effect with several dtypes: a plan has one"
        raise PlanError([Diagnostic(OPTION_WITHOUT_EFFECT, message, help="choose one with `--dtype`")])
    overrides = with_links(request, read_overrides(request.overrides))
    asked = with_workload(request.options, overrides)
    with contextlib.redirect_stdout(sys.stderr):
        opened, rows = None, []
        for dtype in request.dtypes:
            options = replace(asked, dtype=dtype, given=asked.given | {"dtype"})
            if opened is None or opened.holds in _READ_IN_A_DTYPE:
                opened = open_input(request.input, options, overrides)
            try:
                rows.append(_row(dtype, compile_opened(opened, options, overrides, spelled=spelled)))
            except PlanError as error:
                first = error.diagnostics[0]
                if first.code != "does-not-fit":
                    raise
                rows.append(_Row(dtype, refused=first.message))
    if console.json:
        console.data({"dtypes": [asdict(row) for row in rows]})
    else:
        console.text("".join(f"{line.rstrip()}\n" for line in _lines(rows)))
    return 0


def _row(dtype: str, plan: Plan) -> _Row:
    mains = frozenset(device.name for device in plan.devices if is_accelerator(device.name))
    predicted = None if plan.outcome is None else plan.outcome.predicted
    nbytes = None if plan.tree is None or plan.tree.nbytes is None else sum(plan.tree.nbytes)
    off = Contents(plan).off_accelerators(mains)[1] if mains else None
    return _Row(dtype, nbytes, off, predicted.token if predicted is not None else None)


def _lines(rows: list[_Row]) -> list[str]:
    table = [("dtype", "model", "off the accelerators", "a token")]
    for row in rows:
        off = (
            ""
            if row.off_accelerators is None
            else human_size(row.off_accelerators)
            if row.off_accelerators
            else "-"
        )
        size = "" if row.nbytes is None else human_size(row.nbytes)
        token = timed_text(row.token_seconds) if row.token_seconds else ""
        table.append((row.dtype, size, row.refused or off, token))
    widths = [max(map(len, column)) for column in zip_longest(*table, fillvalue="")]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)) for line in table]

"""Runs the real command in this process, as a shell would: own streams, own folder, own environment."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from compile_plan.compiler.cli.command import main


@dataclass(frozen=True)
class Result:
    """What a run left behind."""

    code: int
    out: str
    err: str


class Terminal(io.StringIO):
    """A stream that says it is a terminal, with an encoding of its own."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def run_command(
    arguments: Sequence[str],
    *,
    cwd: Path | None = None,
    environ: Mapping[str, str] | None = None,
    terminal: bool = False,
) -> Result:
    """Run ``compile-plan`` with these arguments and return its exit code and output."""
    make = Terminal if terminal else io.StringIO
    out, err = make(), make()
    kept = {name: value for name, value in os.environ.items() if name not in _STEERING}
    with (
        mock.patch.dict(os.environ, {**kept, **(environ or {})}, clear=True),
        contextlib.chdir(cwd or Path.cwd()),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = main(list(arguments))
    return Result(code, out.getvalue(), err.getvalue())


_STEERING = frozenset({"NO_COLOR", "FORCE_COLOR", "COLUMNS", "COMPILE_PLAN_DEBUG", "CI"})

"""Where the command prints: results on the standard output, findings and notes on the standard error."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, TextIO

from ...ir import Diagnostic
from .render import as_data, as_json, in_order, render
from .terminal import ColorChoice, Line, paint, wants_color, width_of


@dataclass(frozen=True, slots=True)
class Console:
    """The two streams, and how they are written to."""

    out: TextIO
    err: TextIO
    color: ColorChoice = "auto"
    json: bool = False
    unfold: bool = False
    quiet: bool = False

    @property
    def width(self) -> int | None:
        """Columns of the standard output; None when it is no terminal."""
        return width_of(self.out)

    def lines(self, lines: Iterable[Line]) -> None:
        """Print lines of a result."""
        self.text(paint(lines, color=wants_color(self.out, self.color)))

    def text(self, text: str) -> None:
        """Print text of a result as it is."""
        self.out.write(text)
        self.out.flush()

    def data(self, content: dict[str, Any]) -> None:
        """Print a result for machines."""
        self.text(as_json(content))

    def note(self, text: str) -> None:
        """Print a remark beside the result, unless asked to be quiet."""
        if not self.quiet:
            self.err.write(text)
            self.err.flush()

    def failure(self, diagnostics: Iterable[Diagnostic]) -> None:
        """Print why there is no result."""
        found = in_order(diagnostics)
        if self.json:
            self.data({"diagnostics": [as_data(diagnostic) for diagnostic in found]})
        else:
            self._findings(found)

    def warnings(self, diagnostics: Iterable[Diagnostic]) -> None:
        """Print what is remarkable about a result; machines find it in the result."""
        found = tuple(diagnostics)
        if found and not (self.quiet or self.json):
            self._findings(found)
            self.err.write("\n")

    def _findings(self, diagnostics: Iterable[Diagnostic]) -> None:
        color = wants_color(self.err, self.color)
        self.err.write(render(diagnostics, color=color, width=width_of(self.err), unfold=self.unfold))
        self.err.flush()


def standard_console() -> Console:
    """Return the console of this process; what its encoding lacks is escaped, never an error."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    return Console(sys.stdout, sys.stderr)


_GONE: Final = 141
"""What a shell reports for a program that wrote into a closed pipe."""


def leave_pipe() -> int:
    """Return the exit code for a reader that went away, and keep the interpreter quiet about it."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return _GONE

"""Where the command prints: results on the standard output, findings and notes on the standard error."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TextIO, cast

from ...backends.plan_files import write_failure
from ...ir import Diagnostic
from .render import as_data, as_json, by_place, render
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
        with _told_when_lost():
            self.out.write(text)
            self.out.flush()

    def bytes(self, data: bytes) -> None:
        """Print a result that is no text."""
        with _told_when_lost():
            self.out.flush()
            self.out.buffer.write(data)
            self.out.buffer.flush()

    def data(self, content: dict[str, Any]) -> None:
        """Print a result for machines."""
        self.text(as_json(content))

    def note(self, text: str) -> None:
        """Print a remark beside the result, unless asked to be quiet."""
        if not self.quiet:
            self.say(text)

    def failure(self, diagnostics: Iterable[Diagnostic]) -> None:
        """Print why there is no result."""
        found = by_place(diagnostics)
        if self.json:
            self.data({"diagnostics": [as_data(diagnostic) for diagnostic in found]})
        else:
            self._findings(found)

    def warnings(self, diagnostics: Iterable[Diagnostic]) -> None:
        """Print what is remarkable about a result; machines find it in the result."""
        found = tuple(diagnostics)
        if found and not (self.quiet or self.json):
            self._findings(found)
            self.say("\n")

    def _findings(self, diagnostics: Iterable[Diagnostic]) -> None:
        color = wants_color(self.err, self.color)
        self.say(render(diagnostics, color=color, width=width_of(self.err), unfold=self.unfold))

    def say(self, text: str) -> None:
        """Write to the standard error; where that is lost, there is nobody left to tell."""
        try:
            self.err.write(text)
            self.err.flush()
        except BrokenPipeError:
            raise
        except (OSError, ValueError):
            pass

    @contextlib.contextmanager
    def alone(self) -> Iterator[Console]:
        """Keep the standard output for results: whatever else prints, prints to the standard error.

        That holds for Python and for libraries that write to the descriptor themselves.
        """
        with contextlib.redirect_stdout(self.err):
            if _descriptor(self.out) != 1:
                yield self
                return
            kept = os.dup(1)
            encoding, line_buffering = self.out.encoding, self.out.isatty()
            out = open(  # noqa: SIM115, PTH123  # closed below, where a full disk is no second error
                kept, "w", encoding=encoding, errors="backslashreplace", buffering=1 if line_buffering else -1
            )
            os.dup2(_descriptor(self.err) or os.open(os.devnull, os.O_WRONLY), 1)
            try:
                yield replace(self, out=out)
            finally:
                os.dup2(kept, 1)
                with contextlib.suppress(OSError):
                    out.close()


class OutputLostError(Exception):
    """The standard output takes nothing more; carries the finding that says why."""

    def __init__(self, diagnostic: Diagnostic) -> None:
        super().__init__(diagnostic.message)
        self.diagnostic = diagnostic


@contextlib.contextmanager
def _told_when_lost() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:
        raise OutputLostError(write_failure(error, "standard output")) from error


class _Closed(io.TextIOBase):
    """What stands for a stream the process was started without."""

    encoding = "utf-8"

    @property
    def buffer(self) -> _Closed:
        return self

    def write(self, _text: str | bytes) -> int:
        raise OSError(errno.EBADF, "it is closed")


def standard_console() -> Console:
    """Return the console of this process; what its encoding lacks is escaped, never an error."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    return Console(sys.stdout or cast("TextIO", _Closed()), sys.stderr or Path(os.devnull).open("w"))


def _descriptor(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None


_GONE: Final = 141
"""What a shell reports for a program that wrote into a closed pipe."""


def leave_pipe() -> int:
    """Return the exit code for a reader that went away, and keep the interpreter quiet about it."""
    give_up_output()
    return _GONE


def give_up_output() -> None:
    """Let what is still to be printed go nowhere: the interpreter would end with an error of its own."""
    descriptor = None if sys.stdout is None else _descriptor(sys.stdout)
    if descriptor is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)

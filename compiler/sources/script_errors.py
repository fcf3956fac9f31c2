"""Errors of a person's script as diagnostics: their words, their lines, their frames."""

from __future__ import annotations

import re
import traceback
from pathlib import Path
from typing import Final

from ...ir import Diagnostic, Label, Source, Span
from ...ir.rules.sources import NEEDS_REAL_VALUES, SCRIPT_FAILED
from ...ir.visible import pasted

_VALUES: Final = re.compile(
    r"\bmeta\b.*\b(tensors?|device|backend)|\bdevice\W+meta\b|data-dependent", re.IGNORECASE
)
_OWN: Final = Path(__file__).resolve().parent.parent
_MAIN: Final = "`if __name__ == '__main__':`"
_SHOWN: Final = 6
"""Frames of a traceback that are worth showing."""


def failed_script(error: BaseException, path: Path, text: str) -> Diagnostic:
    """Return the finding for an exception that left the script."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return _syntax(error, path, text)
    frames = _frames_of_script(error, path)
    line = next((f.lineno for f in reversed(frames) if _is(f, path)), None)
    at = None if line is None else Label(_line_span(Source(str(path), text), line), "raised here")
    if isinstance(error, SystemExit):
        message = f"`{path}` ended itself with `sys.exit({error.code!r})`"
        help_ = "put what runs the program under `if __name__ == '__main__':`"
        if any(
            Path(frame.filename).name == "argparse.py" for frame in traceback.extract_tb(error.__traceback__)
        ):
            message = f"`{path}` reads arguments of its own, and ended itself without them"
            help_ = "give them defaults, or read them under `if __name__ == '__main__':` beside `def build()`"
        return Diagnostic(SCRIPT_FAILED, message, at, help=help_)
    if _trains(error):
        message = f"`{path}` trains while it is imported, before it offers a `model`"
        help_ = "put what trains under `if __name__ == '__main__':`, and build the model before it"
        return Diagnostic(SCRIPT_FAILED, message, at, help=help_)
    notes = tuple(f"{Path(f.filename).name}:{f.lineno} in {f.name}" for f in frames[-_SHOWN:])
    words = _words(error)
    where = "" if line is None else f", line {line}"
    if reads_values(error):
        message = f"building the model in `{path}`{where} reads values of tensors that have none: {words}"
        help_ = "compute it from numbers, or in the first forward"
        return Diagnostic(NEEDS_REAL_VALUES, message, at, notes=notes, help=help_)
    way = _way_out(error, frames, path)
    return Diagnostic(SCRIPT_FAILED, f"`{path}`{where}: {words}", at, notes=notes, help=way)


def _way_out(error: BaseException, frames: list[traceback.FrameSummary], path: Path) -> str | None:
    """Return what to change; None for a mistake that only the script's writer can tell."""
    inside = Path(frames[-1].filename).parts[-3:] if frames else ()
    asks_shell = bool(inside) and inside[-1] in {"os.py", "<frozen os>"}
    behind = any(_is(frame, path) and frame.name != "<module>" for frame in frames)
    help_ = None if behind else f"build the model before this line, or put the line under {_MAIN}"
    match error:
        case ModuleNotFoundError() if error.name:
            help_ = f"install what has `{error.name}` beside compile-plan, or import it under {_MAIN}"
        case EOFError():
            help_ = f"nobody answers `input()` here: give it a value, or ask under {_MAIN}"
        case KeyError() if asks_shell:
            help_ = f"give it a default, or set it: `{error.args[0]}=… compile-plan {pasted(path.name)}`"
        case FileNotFoundError():
            help_ = f"run the command where the file is, or read it under {_MAIN}"
        case _ if "distributed" in inside:
            help_ = f"one process plans: join others under {_MAIN}"
        case _ if "cuda" in inside or "CUDA" in str(error):
            help_ = f"ask `torch.cuda.is_available()` first, or put the line under {_MAIN}"
    return help_


def on_purpose(error: BaseException) -> bool:
    """Say whether a script ended as its writer meant it to: it trained, or said that it was done."""
    return _trains(error) or (isinstance(error, SystemExit) and error.code in {None, 0})


def _trains(error: BaseException) -> bool:
    """Say whether a script was ended because it trains, by name: the class lives beside torch."""
    return type(error).__name__ == "TrainsError"


def needs_values(finding: Diagnostic) -> bool:
    """Say whether a build failed for want of values, so that the gentler mode may succeed."""
    return finding.rule is NEEDS_REAL_VALUES


def reads_values(error: BaseException) -> bool:
    """Say whether a constructor failed because tensors on meta have no values."""
    kinds = (NotImplementedError, RuntimeError, TypeError, ValueError)
    return isinstance(error, kinds) and _VALUES.search(_words(error)) is not None


def _words(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    first = lines[0] if lines else ""
    return f"{type(error).__name__}: {first[:300]}" if first else type(error).__name__


def _frames_of_script(error: BaseException, path: Path) -> list[traceback.FrameSummary]:
    """Return the frames of the script, and the last one, where the error was raised; never ours."""
    frames = list(traceback.extract_tb(error.__traceback__))
    start = next((i for i, frame in enumerate(frames) if _is(frame, path)), None)
    ours = (
        frames[: start or 0] if start is not None else [f for f in frames if _OWN in Path(f.filename).parents]
    )
    shown = [frame for frame in frames if frame not in ours]
    return [f for f in shown[:-1] if "site-packages" not in Path(f.filename).parts] + shown[-1:]


def _is(frame: traceback.FrameSummary, path: Path) -> bool:
    return frame.filename == str(path)


def _syntax(error: SyntaxError, path: Path, text: str) -> Diagnostic:
    source = Source(str(path), text)
    span = _line_span(source, error.lineno or 1)
    offset = min(span.end, span.start + max(0, (error.offset or 1) - 1))
    line = "" if error.lineno is None else f", line {error.lineno}"
    at = Label(Span(source, offset, span.end), "here")
    return Diagnostic(SCRIPT_FAILED, f"`{path}`{line} is not Python: {error.msg}", at)


def _line_span(source: Source, number: int) -> Span:
    """Return the span of a line without its indentation."""
    lines = source.text.split("\n")
    number = min(max(number, 1), len(lines))
    start = sum(len(line) + 1 for line in lines[: number - 1])
    line = lines[number - 1].rstrip()
    return Span(source, start + len(line) - len(line.lstrip()), start + len(line))

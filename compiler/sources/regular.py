"""Files of a folder somebody else made: a pipe or a device could wait for ever, text is no weights."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Final

from ...ir import Diagnostic
from ...ir.rules.sources import UNREADABLE_INPUT

_POINTER: Final = "version https://git-lfs."
"""What Git LFS begins a file with that it leaves where a large one belongs."""


def regular(path: Path) -> Path:
    """Return the path of a regular file or folder; raises `OSError` for a pipe, a socket or a device."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(errno.EINVAL, "it is not a regular file")
    return path


def unreadable_input(path: Path, error: OSError | ValueError) -> Diagnostic:
    """Return what is to be said of a file or folder that cannot be read."""
    reason = getattr(error, "strerror", None) or error
    help_ = "change its permissions" if isinstance(error, PermissionError) else None
    return Diagnostic(UNREADABLE_INPUT, f"cannot read `{str(path)[:200]}`: {reason}", help=help_)


def text_instead(path: Path) -> tuple[str, str] | None:
    """Return what is wrong with a file of weights that is text (a pointer, a site's answer), and a help."""
    with path.open("rb") as stream:
        first = stream.read(80).decode(errors="replace").partition("\n")[0].rstrip()
    if not first.isprintable() or "\ufffd" in first:
        return None
    pointer = first.startswith(_POINTER)
    help_ = "fetch what it points to: `git lfs pull`" if pointer else "download the file again"
    return f"it is text, which begins `{first}`", help_

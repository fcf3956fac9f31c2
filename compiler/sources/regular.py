"""Files of a folder somebody else made: opening a pipe or a device among them could wait for ever."""

from __future__ import annotations

import errno
from pathlib import Path


def regular(path: Path) -> Path:
    """Return the path of a regular file or folder; raises `OSError` for a pipe, a socket or a device."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(errno.EINVAL, "it is not a regular file")
    return path

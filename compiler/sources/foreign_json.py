"""JSON that somebody else wrote: read with bounds on its size, and on what it would become in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from .regular import regular

_LARGEST: Final = 2**28
"""Bytes; the index of a checkpoint with a million tensors is half of it."""
_SMALL: Final = 2**20
"""What is no longer than that may hold anything."""
_BYTES_PER_CONTAINER: Final = 12
"""A checkpoint's header has no more than one in 16 bytes; an empty list takes 64 in memory."""


def read_foreign_json(path: Path) -> Any:  # noqa: ANN401  # whatever the file holds
    """Return what a file holds; raises `OSError`, or `ValueError` for what is no JSON or would be a bomb."""
    if regular(path).stat().st_size > _LARGEST:
        msg = f"it is larger than {_LARGEST >> 20} MiB"
        raise ValueError(msg)
    text = path.read_bytes()
    check_containers(text)
    return json.loads(text)


def check_containers(text: bytes) -> None:
    """Raise `ValueError` for a long text that is mostly brackets: in memory it is many times its size."""
    containers = text.count(b"[") + text.count(b"{")
    if len(text) > _SMALL and containers * _BYTES_PER_CONTAINER > len(text):
        msg = f"{containers:,} lists and objects in {len(text):,} bytes"
        raise ValueError(msg)

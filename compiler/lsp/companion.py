"""The model a text is about: its own module table, or a plan file that lies next to it.

A comment ``# model: PATH`` names the file (or a checkpoint folder), relative to the text. Without one it
is the file with the same stem, else the only plan file of the folder.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Final

from ...backends import read_plan
from ...ir import Diagnostics, Plan, PlanError

_NAMED: Final = re.compile(r"^[ \t]*#[ \t]*model:[ \t]*(\S.*?)[ \t]*$", re.MULTILINE)
_SUFFIXES: Final = (".msgpack", ".plan")


def find_companion(path: Path, text: str) -> Path | None:
    """Return the file that holds the module tree a text is about; None when there is none."""
    named = _NAMED.search(text)
    if named is not None:
        found = path.parent / named[1]
        return found if found.exists() else None
    same = path.with_suffix(".msgpack")
    if same.is_file():
        return same
    others = sorted(path.parent.glob("*.msgpack"))
    return others[0] if len(others) == 1 else None


def read_companion(path: Path) -> Plan | None:
    """Read a companion; what cannot be read, or has no module table, is as good as none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return _read(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=8)
def _read(path: Path, _changed: int, _nbytes: int) -> Plan | None:
    try:
        plan = read_plan(path) if path.suffix in _SUFFIXES else _read_checkpoint(path)
    except PlanError:
        return None
    return plan if plan.tree is not None else None


def _read_checkpoint(path: Path) -> Plan:
    from ..sources.checkpoint import read_checkpoint

    plan, _ = read_checkpoint(path, Diagnostics())
    return plan

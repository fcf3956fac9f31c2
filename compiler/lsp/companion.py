"""The model a text is about: its own module table, or a plan file that lies next to it.

A comment ``# model: PATH`` names the file (or a checkpoint folder), relative to the text. Without one it
is the file with the same stem, else the only plan file of the folder.
"""

from __future__ import annotations

import re
import stat
from functools import lru_cache
from pathlib import Path
from typing import Final

from ...backends import read_plan
from ...ir import Diagnostics, Plan, PlanError

_NAMED: Final = re.compile(r"^[ \t]*#[ \t]*model:[ \t]*(\S.*?)[ \t]*$", re.MULTILINE)
_SUFFIXES: Final = (".msgpack", ".plan")
_LARGEST: Final = 64 * 2**20
"""Bytes of a plan an editor waits for; the table of a million modules takes a tenth of it."""


def find_companion(path: Path, text: str) -> Path | None:
    """Return the file that holds the module tree a text is about; None when there is none."""
    named = _NAMED.search(text)
    if named is not None:
        found = path.parent / named[1]
        return found if found.is_file() or found.is_dir() else None
    same = path.with_suffix(".msgpack")
    if same.is_file():
        return same
    others = sorted(each for each in path.parent.glob("*.msgpack") if each.is_file())
    return others[0] if len(others) == 1 else None


def read_companion(path: Path) -> Plan | None:
    """Read a companion; what cannot be read, is too large or has no module table is as good as none.

    Pipes and devices are not opened: reading one may wait for ever, or never end.
    """
    try:
        status = path.stat()
    except OSError:
        return None
    if not stat.S_ISDIR(status.st_mode) and not (stat.S_ISREG(status.st_mode) and status.st_size <= _LARGEST):
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

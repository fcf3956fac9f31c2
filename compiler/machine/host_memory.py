"""The memory of the host that this process may still use: free memory within its control groups."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_UNLIMITED = 1 << 60
"""Limits above this are how a control group of version 1 says it has none."""


def available_memory(root: Path = Path("/")) -> tuple[int, str]:
    """Return the bytes that can be taken without swapping, and where the number came from.

    ``root`` is the folder that holds ``proc`` and ``sys``.
    """
    import psutil

    free = int(psutil.virtual_memory().available)
    limits = list(_group_limits(root))
    if limits and min(limits) < free:
        return max(0, min(limits)), "limit of the control group, less what is in use"
    return free, "available on this machine"


def _group_limits(root: Path) -> Iterator[int]:
    """Yield what is left in each control group this process is in, from the inside out."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if not controllers:
            yield from _left(root / "sys/fs/cgroup", group, "memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes")
            yield from _left(root / "sys/fs/cgroup/memory", group, *files)


def _left(mount: Path, group: str, limit_file: str, usage_file: str) -> Iterator[int]:
    parts = [part for part in group.split("/") if part not in {"", "..", "."}]
    for depth in range(len(parts), -1, -1):
        folder = mount.joinpath(*parts[:depth])
        limit = _number(_text(folder / limit_file))
        if limit is not None and limit < _UNLIMITED:
            used = _number(_text(folder / usage_file)) or 0
            yield limit - max(0, used - _reclaimable(folder))


def _reclaimable(folder: Path) -> int:
    """Return the bytes of file cache a group gives back under pressure."""
    rows = [line.split() for line in _text(folder / "memory.stat").splitlines()]
    found = {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}
    return found.get("total_inactive_file", found.get("inactive_file", 0))


def _number(text: str) -> int | None:
    return int(text) if text.strip().isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""

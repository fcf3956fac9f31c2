"""What this process has of a folder's files.

A count of all descriptors would say what the collector did to models of other tests in between.
"""

from __future__ import annotations

from pathlib import Path


def held(folder):
    """Return what this process has of a folder's files: descriptors and maps."""
    links = [str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
    maps = Path("/proc/self/maps").read_text().splitlines()
    return [line for line in (*links, *maps) if str(folder) in line]

"""The order in which devices are filled: accelerators by host, type and index; then mps, memory, disks."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from ...ir import CPU, DISK, MPS, Device

_RANK: Final = {MPS: 1, CPU: 2, DISK: 3}


def in_filling_order(devices: Iterable[Device]) -> tuple[Device, ...]:
    """Sort devices as they are filled; numbers in host names count as numbers."""
    return tuple(sorted(devices, key=lambda device: _filling_key(device.name)))


def _filling_key(name: str) -> tuple[int, list[str | int], str, int]:
    host, _, rest = name.rpartition("/")
    kind, _, index = rest.partition(":")
    parts = enumerate(re.split(r"([0-9]+)", host))
    natural: list[str | int] = [int(part) if i % 2 else part for i, part in parts]
    return _RANK.get(kind, 0), natural, kind, int(index or 0)

"""``--calibrate``: how fast this machine's memory, links and disk are, measured, as a machine description.

Each number is the best of a few copies and takes a fraction of a second; what is measured is printed as
`device` lines, ready for ``--override``.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from ...grammar import print_plan
from ...ir import CPU, DISK, Device, Diagnostics, Model, Plan, is_accelerator
from ..machine.this_machine import this_machine
from .console import Console

_BYTES: Final = 64 * 2**20
_ROUNDS: Final = 5
_SECONDS: Final = 1.0
"""The most that one number may take; at least one round is made."""


def calibrate(console: Console) -> int:
    """Print this machine's devices with their measured bandwidths."""
    diagnostics = Diagnostics()
    devices = [_measured(device) for device in this_machine(diagnostics)]
    disk = Device(DISK, None, at=tempfile.gettempdir(), link=disk_rate(tempfile.gettempdir()))
    console.warnings(diagnostics)
    text = print_plan(Plan(model=Model("this machine"), devices=(*devices, disk)))
    kept = [line for line in text.splitlines() if line.startswith("device ")]
    console.text("\n".join(["# measured here; use it with --override", *kept]) + "\n")
    return 0


def _measured(device: Device) -> Device:
    if device.name == CPU:
        return replace(device, bandwidth=memory_rate())
    if is_accelerator(device.name):
        bandwidth, link = _accelerator_rates(device.name)
        return replace(device, bandwidth=bandwidth, link=link)
    return device


def rate(step: Callable[[], object], nbytes: int) -> int:
    """Return bytes per second of the fastest of a few runs, rounded to what can be trusted."""
    best, end = float("inf"), time.perf_counter() + _SECONDS
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        step()
        now = time.perf_counter()
        best = min(best, now - start)
        if now > end:
            break
    return _rounded(nbytes / max(best, 1e-9))


def _rounded(value: float) -> int:
    """Keep two digits: a third would not be the same twice."""
    digits = max(0, len(str(int(value))) - 2)
    return int(round(value, -digits))


def memory_rate() -> int:
    """Return how fast the host's memory is, read and written: a copy moves each byte twice."""
    source, target = memoryview(bytearray(_BYTES)), memoryview(bytearray(_BYTES))

    def copy() -> None:
        target[:] = source

    return rate(copy, 2 * _BYTES)


def disk_rate(folder: str) -> int:
    """Return how fast a file is read back from a disk, past the page cache where that is possible."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(os.urandom(_BYTES))
        file.flush()
        os.fsync(file.fileno())
        buffer = bytearray(_BYTES)

        def read() -> None:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.seek(0)
            file.readinto(buffer)

        return rate(read, _BYTES)


def _accelerator_rates(name: str) -> tuple[int, int]:
    """Return the bandwidth of an accelerator's memory and of its link from the host."""
    import torch

    module: Any = torch
    host = module.empty(_BYTES, dtype=module.uint8)
    here = module.empty(_BYTES, dtype=module.uint8, device=name)
    there = module.empty_like(here)

    def settled(copy: Callable[[], object]) -> Callable[[], None]:
        def step() -> None:
            copy()
            module.accelerator.synchronize(name)

        return step

    settled(lambda: there.copy_(here))()
    link = rate(settled(lambda: here.copy_(host)), _BYTES)
    return rate(settled(lambda: there.copy_(here)), 2 * _BYTES), link

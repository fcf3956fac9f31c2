"""Plan -> bytes and back: every form a plan can be written in."""

from __future__ import annotations

from .backend import Backend
from .device_map import device_map_diagnostics, to_device_map
from .plan_files import BACKENDS, backend_for, encode, read_plan, write_plan

__all__ = [
    "BACKENDS",
    "Backend",
    "backend_for",
    "device_map_diagnostics",
    "encode",
    "read_plan",
    "to_device_map",
    "write_plan",
]

"""Plan -> bytes and back: every form a plan can be written in."""

from __future__ import annotations

from ..ir import Plan
from .backend import Backend
from .device_map import device_map_diagnostics, to_device_map
from .notebook import notebook_html
from .plan_files import BACKENDS, backend_for, encode, read_plan, write_plan

setattr(Plan, "_repr_html_", notebook_html)  # noqa: B010  # what notebooks ask a value for; plans know no backend

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

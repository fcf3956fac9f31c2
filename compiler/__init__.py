"""The compiler: sources, passes, strategies, command line, loader.

Importing this package loads no torch; each function opens what it needs.
"""

from __future__ import annotations

from ..ir import Plan, PlanError
from .api import compile_model, compile_plan, infer_auto_device_map
from .following import load_model, load_pretrained, runtime_report, verify_plan

__all__ = [
    "Plan",
    "PlanError",
    "compile_model",
    "compile_plan",
    "infer_auto_device_map",
    "load_model",
    "load_pretrained",
    "runtime_report",
    "verify_plan",
]

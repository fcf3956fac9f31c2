"""The placement IR: plans as frozen values, and the laws that hold for them."""

from __future__ import annotations

from .coverage import atomic_modules, unit_of_tensors
from .diagnostic import Diagnostic, Diagnostics, Label, PlanError, Rule, Severity
from .findings import Finding, LeftEmpty, ShortBuffer, Spill, UnlistedDisk
from .names import CPU, DISK, device_type, is_accelerator, is_device_name, is_within, join_path
from .plan import (
    STREAMING,
    Account,
    Atomic,
    Constraint,
    Demand,
    Device,
    Model,
    Never,
    Outcome,
    Plan,
    Reason,
    Reserve,
    Split,
    TieGroup,
    Together,
    Unit,
    Work,
)
from .rules import RULES
from .sizes import exact_size, human_size, parse_size, size_up
from .source import Source, Span
from .tree import ModuleTree, Role, group_storages
from .verify import verify

__all__ = [
    "CPU",
    "DISK",
    "RULES",
    "STREAMING",
    "Account",
    "Atomic",
    "Constraint",
    "Demand",
    "Device",
    "Diagnostic",
    "Diagnostics",
    "Finding",
    "Label",
    "LeftEmpty",
    "Model",
    "ModuleTree",
    "Never",
    "Outcome",
    "Plan",
    "PlanError",
    "Reason",
    "Reserve",
    "Role",
    "Rule",
    "Severity",
    "ShortBuffer",
    "Source",
    "Span",
    "Spill",
    "Split",
    "TieGroup",
    "Together",
    "Unit",
    "UnlistedDisk",
    "Work",
    "atomic_modules",
    "device_type",
    "exact_size",
    "group_storages",
    "human_size",
    "is_accelerator",
    "is_device_name",
    "is_within",
    "join_path",
    "parse_size",
    "size_up",
    "unit_of_tensors",
    "verify",
]

"""Rules of `ir.verify`: what is wrong with a plan whoever made it."""

from __future__ import annotations

from typing import Final

from ..diagnostic import Rule, Severity

ATOMIC_CUT: Final = Rule(
    "atomic-cut", Severity.ERROR, "a module that is never split is cut where it cannot be visited"
)
BUDGET_EXCEEDED: Final = Rule("budget-exceeded", Severity.ERROR, "a device holds more than its memory")
DUPLICATE_DEVICE: Final = Rule("duplicate-device", Severity.ERROR, "a device is declared twice in one plan")
INVALID_PLACEMENT: Final = Rule(
    "invalid-placement", Severity.ERROR, "a unit is stored or run where that is impossible"
)
TENSOR_WITHOUT_PLACE: Final = Rule(
    "tensor-without-place", Severity.ERROR, "a parameter or buffer has no device"
)
TIE_ACROSS_DEVICES: Final = Rule(
    "tie-across-devices", Severity.ERROR, "tensors that share storage are placed apart"
)
UNDECLARED_DEVICE: Final = Rule(
    "undeclared-device", Severity.ERROR, "a line names a device the plan does not declare"
)

ALL: Final = (
    ATOMIC_CUT,
    BUDGET_EXCEEDED,
    DUPLICATE_DEVICE,
    INVALID_PLACEMENT,
    TENSOR_WITHOUT_PLACE,
    TIE_ACROSS_DEVICES,
    UNDECLARED_DEVICE,
)

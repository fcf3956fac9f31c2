"""Rules about devices and their budgets; part of the area `sources`."""

from __future__ import annotations

from typing import Final

from ..diagnostic import Rule, Severity

BAD_MACHINE_FILE: Final = Rule(
    "bad-machine-file", Severity.WARNING, "the file with this machine's measured rates cannot be used"
)
DUPLICATE_BUDGET: Final = Rule("duplicate-budget", Severity.ERROR, "one device is given two budgets")
INVALID_BUDGET: Final = Rule("invalid-budget", Severity.ERROR, "a budget is not a number of bytes")
MALFORMED_MEMORY_OPTION: Final = Rule(
    "malformed-memory-option", Severity.ERROR, "the memory option is not a list of DEVICE=SIZE"
)
NO_USABLE_DEVICE: Final = Rule(
    "no-usable-device", Severity.ERROR, "no listed device can hold or compute anything"
)
NOT_MEASURED: Final = Rule("not-measured", Severity.WARNING, "the speed of a device could not be measured")
SKIPPED_DEVICE: Final = Rule(
    "skipped-device", Severity.WARNING, "a device of this machine did not tell its memory"
)
UNKNOWN_DEVICE_NAME: Final = Rule(
    "unknown-device-name", Severity.ERROR, "a device is spelled in a way nobody knows"
)

ALL: Final = (
    BAD_MACHINE_FILE,
    DUPLICATE_BUDGET,
    INVALID_BUDGET,
    MALFORMED_MEMORY_OPTION,
    NOT_MEASURED,
    NO_USABLE_DEVICE,
    SKIPPED_DEVICE,
    UNKNOWN_DEVICE_NAME,
)

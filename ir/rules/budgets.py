"""Rules about devices and their budgets; part of the area `sources`."""

from __future__ import annotations

from typing import Final

from ..diagnostic import Rule, Severity

BAD_MACHINE_FILE: Final = Rule(
    "bad-machine-file",
    Severity.WARNING,
    "the file with this machine's measured rates cannot be used",
    """\
`--calibrate --save` keeps what it measured in `compile-plan/machine.json` under `XDG_CONFIG_HOME`, or under
`~/.config`. What is there now is something else, so rates are taken from tables, as on a machine that was
never measured.

    {"format": "compile-plan machine", "version": 7}

Measure again with `compile-plan --calibrate --save`, or delete the file.""",
)
DUPLICATE_BUDGET: Final = Rule(
    "duplicate-budget",
    Severity.ERROR,
    "one device is given two budgets",
    """\
`0`, `"0"` and `cuda:0` are the same device, so they can have one budget together.

    --memory 0=10GiB,cuda:0=12GiB

Keep the one that is true.""",
)
INVALID_BUDGET: Final = Rule(
    "invalid-budget",
    Severity.ERROR,
    "a budget is not a number of bytes",
    """\
A budget is a whole number of bytes from 0 to 2**63-1, or a size: `10GiB` (binary), `10GB` and `10gb`
(decimal), `1.5GiB`, `512M`. 0 is allowed: the device gets nothing. A disk may be `unlimited`.

    --memory cuda:0=-1GiB

Write the size of the memory that may be used.""",
)
MALFORMED_MEMORY_OPTION: Final = Rule(
    "malformed-memory-option",
    Severity.ERROR,
    "the memory option is not a list of DEVICE=SIZE",
    """\
`--memory` takes devices and sizes, separated by commas.

    --memory cuda:0:10GiB

Write `--memory cuda:0=10GiB,cpu=64GiB`. A bare `disk` is a disk without a limit.""",
)
NO_USABLE_DEVICE: Final = Rule(
    "no-usable-device",
    Severity.ERROR,
    "no listed device can hold or compute anything",
    """\
Devices that are not listed are not used, a budget of 0 keeps a device empty, and a disk cannot
compute.

    --memory disk=0

List at least one device that computes, such as `cpu`, and give something a budget.""",
)
SKIPPED_DEVICE: Final = Rule(
    "skipped-device",
    Severity.WARNING,
    "a device of this machine did not tell its memory",
    """\
The device is there, but asking it for its free memory failed, so the plan leaves it out. A driver
that does not match, a card in exclusive use, or a tool that hangs are usual reasons.

Give the budgets yourself: `--memory cuda:0=10GiB,cpu=64GiB`.""",
)
UNKNOWN_DEVICE_NAME: Final = Rule(
    "unknown-device-name",
    Severity.ERROR,
    "a device is spelled in a way nobody knows",
    """\
Devices are `cpu`, `disk`, `mps`, an index (`0` is `cuda:0`), or a type and an index (`cuda:0`,
`xpu:1`), with a host in front when there are several (`node1/cuda:0`).

    --memory gpu7=10GiB

Write `cuda:7=10GiB`.""",
)

ALL: Final = (
    BAD_MACHINE_FILE,
    DUPLICATE_BUDGET,
    INVALID_BUDGET,
    MALFORMED_MEMORY_OPTION,
    NO_USABLE_DEVICE,
    SKIPPED_DEVICE,
    UNKNOWN_DEVICE_NAME,
)

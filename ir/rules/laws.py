"""Rules of `ir.verify`: what is wrong with a plan whoever made it."""

from __future__ import annotations

from typing import Final

from ..diagnostic import Rule, Severity

ATOMIC_CUT: Final = Rule(
    "atomic-cut",
    Severity.ERROR,
    "a module that is never split is cut where it cannot be visited",
    """\
What an `atomic` line names mixes its parts in its own forward: on two devices, an op would meet both.

    atomic class Block
    place blocks.0.attention on cuda:0
    place blocks.0.scale on cuda:1

A child module that is called may be apart all the same: it is visited, and its results come back. A bare
tensor cannot, nor what a `never ... on visiting` line names. Place the module as one unit. If it may be cut
after all, remove the `atomic` line.""",
)
BUDGET_EXCEEDED: Final = Rule(
    "budget-exceeded",
    Severity.ERROR,
    "a device holds more than its memory",
    """\
The ledger of a device (weights, buffers, KV cache, activations, streaming buffer, row
cache, runtime, reserves and margin) adds up to more than its budget, so loading or running the plan would
run out of memory.

    device cuda:0 memory 1GiB
    place model on cuda:0        # 1.4GiB

Move units to another device, or raise the budget if the number is wrong.""",
)
DUPLICATE_DEVICE: Final = Rule(
    "duplicate-device",
    Severity.ERROR,
    "a device is declared twice in one plan",
    """\
Each device has one budget, so it is declared once.

    device cuda:0 memory 10GiB
    device cuda:0 memory 12GiB

Keep the line that is true. An override file may declare a device again: there it replaces.""",
)
INVALID_PLACEMENT: Final = Rule(
    "invalid-placement",
    Severity.ERROR,
    "a unit is stored or run where that is impossible",
    """\
A disk stores but does not compute, so a unit on disk needs a device to run on.

    place model.layers.9 on disk run on disk

Write `place model.layers.9 on disk run on cpu`. Rows travel only from one device to another, so `by rows`
needs `run on` with another device; a link joins two.""",
)
TENSOR_WITHOUT_PLACE: Final = Rule(
    "tensor-without-place",
    Severity.ERROR,
    "a parameter or buffer has no device",
    """\
Every parameter and every buffer, persistent or not, needs exactly one device to be stored on.
A plan that forgets one would leave it on the meta device or on the CPU by accident.

    place model.layers.{0..5} on cuda:0      # the model has layers 0 to 6

Add a `place` line for what is missing, or one for a common parent.""",
)
TIE_ACROSS_DEVICES: Final = Rule(
    "tie-across-devices",
    Severity.ERROR,
    "tensors that share storage are placed apart",
    """\
Tied tensors are one piece of memory. Placed on two devices they would become two copies that
drift apart under training and cost their bytes twice.

    tie embed.weight = lm_head.weight
    place embed on cuda:0
    place lm_head on cuda:1

Place all members on one device.""",
)
UNDECLARED_DEVICE: Final = Rule(
    "undeclared-device",
    Severity.ERROR,
    "a line names a device the plan does not declare",
    """\
Places, reserves, caches, links and `never` lines name devices that a `device` line declares, so that
every budget is visible. A link may also name hosts: those of declared devices.

    device cuda:0 memory 10GiB
    place model on cuda:1

Declare the device, or name a declared one.""",
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

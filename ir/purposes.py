"""What bytes that are not weights are for: which line of a ledger a purpose enters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Final

from .names import is_accelerator
from .plan import Account, Demand

LEDGER_LINES: Final = tuple(field.name for field in fields(Account) if field.type == "int")
"""The lines of a ledger, in the order in which they are told."""


@dataclass(frozen=True, slots=True)
class Purpose:
    """One known purpose; any other is a plain reserve."""

    name: str
    line: str
    """The ledger line it enters."""
    momentary: bool = False
    """Whether a device needs only the largest of them: they are there for a moment, one after the other."""


KV_CACHE: Final = "kv cache"
ACTIVATIONS: Final = "activations"
LOGITS: Final = "logits"
ON_HOST: Final = "activations on the cpu"
ON_ONE: Final = "activations on one device"
ON_ONE_HOST: Final = "activations on the cpu alone"
WRITING: Final = "activations of writing on one device"
WRITING_HOST: Final = "activations of writing on the cpu alone"
RUNTIME: Final = "runtime"
ALLOCATOR: Final = "allocator"
KEPT: Final = "kept activations"
GRADIENTS: Final = "gradients"
OPTIMIZER: Final = "optimizer"
PURPOSES: Final = (
    Purpose(KV_CACHE, "kv_cache"),
    Purpose(ACTIVATIONS, "activations", momentary=True),
    Purpose(LOGITS, "activations", momentary=True),
    Purpose(KEPT, "activations"),
    Purpose(GRADIENTS, "reserve"),
    Purpose(OPTIMIZER, "reserve"),
    Purpose(ON_HOST, "activations", momentary=True),
    Purpose(ON_ONE, "activations", momentary=True),
    Purpose(ON_ONE_HOST, "activations", momentary=True),
    Purpose(WRITING, "activations", momentary=True),
    Purpose(WRITING_HOST, "activations", momentary=True),
    Purpose("streaming buffer", "streaming"),
    Purpose(RUNTIME, "runtime"),
    Purpose(ALLOCATOR, "runtime"),
)
MOMENTARY: Final = frozenset(purpose.name for purpose in PURPOSES if purpose.momentary)
PASSING: Final = frozenset({KV_CACHE, KEPT})
"""Purposes that add up while their module is in use, and go with the phase it is in use in."""
APART: Final = frozenset({ACTIVATIONS, LOGITS, ON_HOST, KEPT})
"""What any device needs that some of a forward runs on, whatever runs elsewhere: bounds, piece by piece."""
ALONE: Final = frozenset({ON_ONE, WRITING})
"""What stands in place of those where everything runs on one device, known to the byte: while a prompt is
read, and while the last token is written. The larger counts."""
ALONE_HOST: Final = frozenset({ON_ONE_HOST, WRITING_HOST})
"""The same where that device is the CPU, if anything differs there."""
TOGETHER: Final = ALONE | ALONE_HOST
_LINES: Final = {purpose.name: purpose.line for purpose in PURPOSES}


def counts_on(purpose: str, device: str | None) -> bool:
    """Say whether bytes of a purpose are needed on a device: some kernels are fused on accelerators only."""
    return purpose not in {ON_HOST, *ALONE_HOST} or (device is not None and not is_accelerator(device))


def lasting_purposes(demands: Iterable[Demand]) -> str:
    """Return what is kept from call to call beside the weights: ``kv cache``, ``gradients, optimizer``."""
    return ", ".join(dict.fromkeys(each.purpose for each in demands if each.purpose not in MOMENTARY))


def ledger_line(purpose: str) -> str:
    """Return the ledger line that bytes of a purpose enter."""
    return _LINES.get(purpose, "reserve")

"""What a compilation is asked to do: one frozen value for the command line and for Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final, Literal, TypeAlias, cast

from ...ir import Reserve
from ..machine.budgets import DeviceKey, Size

Strategy: TypeAlias = Literal["auto", "accelerate", "balanced", "balanced_low_0", "sequential"]
Objective: TypeAlias = Literal["fewest-devices", "balance", "headroom", "latency", "throughput"]
Offload: TypeAlias = Literal["stream", "compute", "auto", "none"]

STRATEGIES: Final = ("auto", "accelerate", "balanced", "balanced_low_0", "sequential")
OBJECTIVES: Final = ("fewest-devices", "balance", "headroom", "latency", "throughput")
OFFLOADS: Final = ("stream", "compute", "auto", "none")

AUTOMATIC: Final = "auto"
"""Example inputs made from the model's transformers config."""


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one compilation; every default is what most people want."""

    max_memory: Mapping[DeviceKey, Size] | None = None
    """Budgets by device; None is this machine's free memory."""
    no_split: tuple[str, ...] | None = None
    """Class names never split; None takes the model's own list."""
    dtype: str | None = None
    special_dtypes: tuple[tuple[str, str], ...] = ()
    strategy: Strategy = "auto"
    objective: Objective | None = None
    """None: the first devices in order, none of them empty, then fewest hops; where something spills, most
    bytes on accelerators."""
    offload: Offload = "stream"
    offload_buffers: bool = False
    fallback: bool = True
    """Strategy ``accelerate`` only: bring a later module forward rather than leave a device empty."""
    reserves: tuple[Reserve, ...] = ()
    margin: int = 0
    """Bytes never planned with, on every accelerator."""
    runtime: int | None = None
    """Bytes of every accelerator that its driver and libraries take; None: 0 of a given budget, and what is
    usual of one read from this machine."""
    kv_cache: int = 0
    """Bytes of KV cache for the whole model, shared out over its repeated layers."""
    batch: int | None = None
    seq: int | None = None
    cache_tokens: int | None = None
    prompt: int = 512
    generate: int = 128
    """Workload of the latency objective: tokens read and tokens written."""
    time_limit: float = 10.0
    """Seconds the exact search may take."""
    trust_remote_code: bool = False

    def recorded(self) -> tuple[tuple[str, str], ...]:
        """Return what a plan remembers of its options: those that differ from their defaults."""
        kept = []
        for option in fields(self):
            value = getattr(self, option.name)
            if option.name in _NOT_RECORDED or value == option.default:
                continue
            kept.append((option.name.replace("_", "-"), _spelled(value)))
        return tuple(sorted(kept))


def _spelled(value: object) -> str:
    if not isinstance(value, tuple):
        return str(value)
    items = cast("tuple[str | tuple[str, str], ...]", value)
    return ",".join(item if isinstance(item, str) else "=".join(item) for item in items)


# Budgets and reserves are `device` and `reserve` lines of the plan.
_NOT_RECORDED: Final = frozenset({"max_memory", "reserves"})

"""What passes found out while placing, as values: `emit-warnings` says them, and nobody else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class LeftEmpty:
    """A device that holds nothing, and the bytes that would have been enough."""

    device: str
    nbytes: int


@dataclass(frozen=True, slots=True)
class UnlistedDisk:
    """A disk that nobody listed, and the bytes it holds."""

    device: str
    nbytes: int


@dataclass(frozen=True, slots=True)
class ShortBuffer:
    """A device with too little room left for what is streamed to it, in bytes."""

    device: str
    wanted: int
    left: int


@dataclass(frozen=True, slots=True)
class Spill:
    """Bytes stored off the accelerators, with the numbers that prove it and the change that avoids it."""

    nbytes: int
    total: int
    """Bytes of everything that could have been placed."""
    needed: int
    lasting: int
    """What of the needed bytes is no weights."""
    kept: str
    """What that is, by its purposes."""
    peak: int
    """Bytes of activations that come on top."""
    free: int
    """Bytes the accelerators have for it."""
    largest: int
    """The largest unit outside, in bytes; ``smallest`` and ``gap`` likewise."""
    smallest: int
    gap: int
    more: tuple[str, int] | None = None
    """The device and the bytes more with which nothing spills."""
    unproven: int | None = None
    """Bytes that may still be gained; None where it is proved that none can."""


@dataclass(frozen=True, slots=True)
class ComputedInstead:
    """Units that were to be streamed and are computed where they are stored, all of them in bytes."""

    paths: tuple[str, ...]
    nbytes: int
    largest: int
    """What streaming the largest of them takes of an accelerator; zero where a rule forbids it."""
    room: int
    """What the accelerator with the most room has, in bytes."""


@dataclass(frozen=True, slots=True)
class SearchEnded:
    """The clock ended the search after so many seconds."""

    seconds: float


Finding: TypeAlias = LeftEmpty | UnlistedDisk | ShortBuffer | Spill | ComputedInstead | SearchEnded

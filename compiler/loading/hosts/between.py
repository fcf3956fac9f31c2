"""How fast the roads between the processes of a group are, measured by what the runtime sends with.

Each pair is measured alone, both ways in turn: a few kilobytes for the latency, then ever more bytes until
they take long enough for a rate.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Final

import torch

from ....ir import Link
from .wire import Wire

SMALL: Final = 4096
"""Bytes of a hidden state of one token."""
FIRST: Final = 1 << 20
LARGEST: Final = 256 << 20
LONG_ENOUGH: Final = 0.25
"""Seconds there and back after which a rate is known well enough."""
_ROUNDS: Final = 30
_CPU: Final = torch.device("cpu")


def measured_links(wire: Wire, names: Sequence[str]) -> Iterator[Link]:
    """Yield the links between all hosts, the same on each of them; all have to ask at the same time."""
    for first, second in combinations(range(len(names)), 2):
        found: tuple[float, float] | None = None
        if wire.me in (first, second):
            found = _measured(wire, second if wire.me == first else first, begins=wire.me == first)
        latency, rate = wire.exchange(found)[first]
        yield Link(names[first], names[second], int(_two_digits(rate)), int(_two_digits(latency * 1e9)))


def _measured(wire: Wire, other: int, *, begins: bool) -> tuple[float, float]:
    """Return the seconds of a small message and the bytes a second of a large one, on the one that begins."""
    rounds = [_there_and_back(wire, other, SMALL, begins=begins) for _ in range(_ROUNDS)]
    small, nbytes = min(rounds), FIRST
    while True:
        seconds = min(_there_and_back(wire, other, nbytes, begins=begins) for _ in range(2))
        last = _told(wire, other, seconds >= LONG_ENOUGH or nbytes >= LARGEST, begins=begins)
        if last:
            return small / 2, 2 * nbytes / max(seconds - small, 1e-9)
        nbytes *= 2


def _there_and_back(wire: Wire, other: int, nbytes: int, *, begins: bool) -> float:
    tensor = torch.ones(nbytes, dtype=torch.uint8)
    start = time.perf_counter()
    if begins:
        wire.send(tensor, other)
    tensor = wire.receive(tensor, other, _CPU)
    seconds = time.perf_counter() - start
    if not begins:
        wire.send(tensor, other)
    return seconds


def _told(wire: Wire, other: int, value: bool, *, begins: bool) -> bool:  # noqa: FBT001
    """Return the value of the one that begins, on both."""
    tensor = torch.tensor([value])
    if begins:
        wire.send(tensor, other)
        return value
    return bool(wire.receive(tensor, other, _CPU))


def _two_digits(value: float) -> float:
    return float(f"{value:.2g}")

"""Whether tensors go from card to card: over NCCL where every host has a card of its own, else over gloo.

Gloo takes them from host memory to host memory. What processes tell each other is small and goes over gloo
in any case.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any, Final, NamedTuple

import torch

DIRECT: Final = {"cuda": "nccl"}
"""What carries tensors between devices of a kind."""


class Card(NamedTuple):
    """What a process tells of the device it sends from and receives on."""

    kind: str
    """Of device; empty where nothing carries tensors between such."""
    which: str
    """Cards are shared by two processes of one machine, perhaps, which NCCL refuses."""


def card_here(device: torch.device) -> Card:
    """Return what this process tells of its device."""
    backend = DIRECT.get(device.type)
    if backend is None or not torch.distributed.is_backend_available(backend):
        return Card("", "")
    return Card(device.type, str(torch.cuda.get_device_properties(device).uuid))


def backend_between(cards: Sequence[Card]) -> str | None:
    """Return what carries tensors between the cards of all hosts; None: they go by host memory."""
    kinds = {card.kind for card in cards}
    if len(kinds) != 1 or len(set(cards)) != len(cards):
        return None
    return DIRECT.get(kinds.pop())


def connected(backend: str, rank: int, size: int, device: torch.device) -> Any:  # noqa: ANN401  # a group of torch
    """Return a group over which a byte has gone between each two ranks.

    The first message between two of them waits for both, so it is done here, where all are.
    """
    distributed: Any = torch.distributed
    group = distributed.new_group(backend=backend)
    byte = torch.zeros(1, dtype=torch.uint8, device=device)
    for first, second in combinations(range(size), 2):
        if rank == first:
            distributed.isend(byte, second, group=group).wait()
        elif rank == second:
            distributed.irecv(byte, first, group=group).wait()
    return group

"""What one reading thread sends to devices: through a ring of slots for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .ring import Ring
from .streaming.courier import Pair
from .streaming.lanes import Lane, lane_to

if TYPE_CHECKING:
    import torch


class Slots:
    """A ring and a lane for each device, made when the thread first reads for it."""

    def __init__(self, nbytes: int) -> None:
        self._nbytes = nbytes
        self._rings: dict[torch.device, Ring] = {}
        self._lanes: dict[torch.device, Lane] = {}

    def free(self, device: torch.device) -> torch.Tensor:
        """Return the bytes of the slot whose turn it is, when the device is done with it."""
        if device not in self._rings:
            self._rings[device] = Ring(self._nbytes, known=device.type == "cuda")
            self._lanes[device] = lane_to(device)
        return self._rings[device].free(self._nbytes)

    def send(self, device: torch.device, pairs: list[Pair]) -> None:
        """Let the device copy parts of the slot to where they belong; where dtypes differ, it converts."""
        ring, lane = self._rings[device], self._lanes[device]
        ring.filled()
        ring.sent(lane.copy(pairs, [lane.mark()]))  # the memory may have been somebody else's

    def settle(self) -> None:
        """Return when all copies have happened."""
        for ring in self._rings.values():
            ring.settle()

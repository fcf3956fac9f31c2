"""The pinned slots of one reading thread: filled in turn, each sent to its card while the next is filled."""

from __future__ import annotations

from typing import Any

import torch

from .blocks import Block
from .stored_files import PIECE


class Slots:
    """Two slots per card, made when the thread first reads for it."""

    def __init__(self) -> None:
        self._blocks: dict[torch.device, list[Block]] = {}
        self._marks: dict[torch.device, list[Any]] = {}
        self._sides: dict[torch.device, Any] = {}
        self._turn: dict[torch.device, int] = {}

    def free(self, device: torch.device) -> torch.Tensor:
        """Return the bytes of the slot whose turn it is, when the card is done with it."""
        if device not in self._blocks:
            self._open(device)
        turn = self._turn[device] = 1 - self._turn[device]
        mark = self._marks[device][turn]
        if mark is not None:
            mark.synchronize()
        return self._blocks[device][turn].bytes(0, PIECE)

    def send(self, landing: torch.Tensor, target: torch.Tensor) -> None:
        """Let the card copy what is in the slot; where dtypes differ, the card converts."""
        side = self._sides[target.device]
        with torch.cuda.stream(side):
            target.copy_(landing, non_blocking=True)
        mark = torch.cuda.Event()  # type: ignore[no-untyped-call]
        mark.record(side)
        self._marks[target.device][self._turn[target.device]] = mark

    def settle(self) -> None:
        """Return when all copies have happened."""
        for side in self._sides.values():
            side.synchronize()

    def _open(self, device: torch.device) -> None:
        blocks = [Block(PIECE), Block(PIECE)]
        for block in blocks:
            block.register()
        side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(device))  # the memory may have been somebody else's
        self._blocks[device], self._marks[device] = blocks, [None, None]
        self._sides[device], self._turn[device] = side, 0

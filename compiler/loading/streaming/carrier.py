"""Brings what rests on the host to one device, into the device's streaming buffer.

Tensors that rest side by side travel as one copy, and are views of it where they arrive.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import torch

from ..blocks import Block
from ..ring import Mark
from .arena import Arena, Lot, aligned
from .courier import Pair
from .lanes import Lane, lane_to
from .streamed import Streamed


@dataclass(frozen=True, slots=True)
class _Run:
    """Tensors side by side in a block, and the bytes of it from the first to the last."""

    block: Block
    start: int
    end: int
    tensors: tuple[Streamed, ...]


def needs_of(streamed: Sequence[Streamed]) -> int:
    """Return the bytes of memory that bringing some tensors takes."""
    runs, single = _runs(streamed)
    return sum(aligned(run.end - run.start) for run in runs) + sum(aligned(one.nbytes) for one in single)


class Carrier:
    """The lane to one device and the memory there."""

    def __init__(self, device: torch.device, nbytes: int) -> None:
        self.device = device
        self.lane: Lane = lane_to(device)
        self.arena = Arena(device, nbytes, self.lane)

    def bring(self, streamed: Sequence[Streamed], lot: Lot | None) -> tuple[dict[int, torch.Tensor], Mark]:
        """Copy tensors to the device; returns them by their id, and the mark of the copies."""
        runs, single = _runs(streamed)
        memory = outside(needs_of(streamed), self.device, self.lane) if lot is None else lot.memory
        values: dict[int, torch.Tensor] = {}
        known: list[Pair] = []
        others: list[Iterable[Pair]] = []
        first = 0
        for run in runs:
            room = memory[first : first + run.end - run.start]
            pair = (run.block.bytes(run.start, run.end), room)
            if run.block.pinned:
                known.append(pair)
            else:
                others.append((pair,))
            values |= {id(one): _shaped(room[one.start - run.start :], one) for one in run.tensors}
            first += aligned(run.end - run.start)
        for one in single:
            values[id(one)] = room = _shaped(memory[first:], one)
            others.append(_pairs(one, room))
            first += aligned(one.nbytes)
        mark = self.lane.copy(known, [self.lane.mark()] if lot is None else lot.after)
        # One by one: while the card copies what is in memory, the disk brings the next.
        return values, self.lane.carry(chain.from_iterable(others), [mark]) if others else mark


def outside(nbytes: int, device: torch.device, lane: Lane) -> torch.Tensor:
    """Return memory beside the streaming buffer, nobody else's before what a lane copies there is over."""
    memory = torch.empty(nbytes, dtype=torch.uint8, device=device)
    lane.fills(memory)
    return memory


def _shaped(memory: torch.Tensor, one: Streamed) -> torch.Tensor:
    """Return the first bytes of memory as a tensor like one at rest, in the dtype it is used in."""
    return memory[: one.nbytes].view(one.dtype).view(one.rest.shape).data  # with a version of its own


def _pairs(one: Streamed, room: torch.Tensor) -> Iterator[Pair]:
    """Yield a tensor as it rests, with its place; what is in files is in memory when it is yielded."""
    if one.pieces is not None:
        yield from one.pieces.pairs(room)
    elif one.mapped is not None and one.rest.is_contiguous():
        yield from one.mapped.stretches(room)
    else:
        one.bring()
        yield one.rest, room


def _runs(streamed: Sequence[Streamed]) -> tuple[list[_Run], list[Streamed]]:
    """Return what travels together, and what travels alone."""
    flat = [one for one in streamed if one.block is not None and one.dtype == one.rest.dtype]
    together = {id(one) for one in flat}
    return list(_side_by_side(flat)), [one for one in streamed if id(one) not in together]


def _side_by_side(flat: Sequence[Streamed]) -> Iterator[_Run]:
    row: list[Streamed] = []
    for one in sorted(flat, key=lambda one: (id(one.block), one.start)):
        if row and not (one.block is row[-1].block and one.start == aligned(row[-1].start + row[-1].nbytes)):
            yield _run(row)
            row = []
        row.append(one)
    if row:
        yield _run(row)


def _run(row: Sequence[Streamed]) -> _Run:
    block = row[0].block
    assert block is not None  # noqa: S101  # only what is in a block is side by side
    return _Run(block, row[0].start, row[-1].start + row[-1].nbytes, tuple(row))

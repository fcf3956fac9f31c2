"""What is read, cut into pieces: one request to a file each.

Large tensors are cut. Small ones for a device that are neighbours in a file are read together, through one
slot: a request, a copy and a wait for each would cost more than their bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat, zip_longest
from typing import Final

import torch

from ..machine.pages import PIECE
from ..sources.safetensors_header import StoredTensor
from .ring import SLOT
from .stored_files import Mapped

GAP: Final = 64 << 10
"""Bytes between two tensors that are read in vain rather than by two requests."""


@dataclass(frozen=True, slots=True)
class Job:
    """One stored tensor and the contiguous tensor that takes it."""

    source: StoredTensor
    dtype: torch.dtype
    """What the stored bytes are."""
    target: torch.Tensor | Mapped
    """What takes them; pages of the file itself are only brought."""

    @property
    def device(self) -> torch.device | None:
        """The device it is sent to; None where it stays on the host."""
        target = self.target
        return None if isinstance(target, Mapped) or target.device.type == "cpu" else target.device

    @property
    def direct(self) -> bool:
        """Whether bytes are as they stay: on the host a large piece of them takes no scratch."""
        return isinstance(self.target, torch.Tensor) and self.target.dtype == self.dtype


@dataclass(frozen=True, slots=True)
class Stretch:
    """Some bytes of a stored tensor, and what takes them."""

    job: Job
    first: int
    """First byte within the stored tensor."""
    nbytes: int
    room: torch.Tensor | None
    """The elements of the target that it is for; pages of files are only brought."""

    @property
    def offset(self) -> int:
        """First byte within the file."""
        return self.job.source.offset + self.first

    @property
    def end(self) -> int:
        """One past the last byte within the file."""
        return self.offset + self.nbytes


@dataclass(frozen=True, slots=True)
class Piece:
    """What is read at once: one part, or parts side by side in a file that go to one device."""

    parts: tuple[Stretch, ...]
    device: torch.device | None
    """The device it is sent to; None where it stays on the host."""

    @property
    def nbytes(self) -> int:
        """Bytes that are wanted of it."""
        return sum(part.nbytes for part in self.parts)

    @property
    def extent(self) -> int:
        """Bytes from the first to the last."""
        return self.parts[-1].end - self.parts[0].offset


def pieces_of(jobs: Iterable[Job]) -> list[Piece]:
    """Return what is read, jobs in the order of their files; where it goes to several devices, in turns."""
    lines: dict[torch.device | None, list[Piece]] = {}
    for piece in _together(jobs):
        lines.setdefault(piece.device, []).append(piece)
    return [piece for turn in zip_longest(*lines.values()) for piece in turn if piece is not None]


def _together(jobs: Iterable[Job]) -> Iterator[Piece]:
    row: list[Stretch] = []
    going: torch.device | None = None
    for job in jobs:
        device = job.device
        for part in _parts(job, device):
            if row and not (device is not None and device == going and _goes_along(part, row[0], row[-1])):
                yield Piece(tuple(row), going)
                row = []
            row.append(part)
            going = device
    if row:
        yield Piece(tuple(row), going)


def _parts(job: Job, device: torch.device | None) -> Iterator[Stretch]:
    """Yield a tensor in parts; their rooms are made at once, while no thread waits for its turn in Python."""
    nbytes, target = job.source.nbytes, job.target
    size = SLOT if device is not None or job.direct else PIECE
    rooms: Iterator[torch.Tensor | None]
    if isinstance(target, Mapped):
        rooms = repeat(None)
    else:
        rooms = iter(target.view(-1).split(size // job.dtype.itemsize))  # type: ignore[no-untyped-call]
    for first, room in zip(range(0, nbytes, size), rooms, strict=False):
        yield Stretch(job, first, min(size, nbytes - first), room)


def _goes_along(part: Stretch, first: Stretch, last: Stretch) -> bool:
    """Say whether a part is read with those before it: what lies between is small, and it lands aligned."""
    return (
        part.job.source.file == first.job.source.file
        and last.end <= part.offset <= last.end + GAP
        and part.end - first.offset <= SLOT
        and (part.offset - first.offset) % part.job.dtype.itemsize == 0
    )

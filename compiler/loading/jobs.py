"""What is read, cut into pieces: one request to a file each.

Large tensors are cut. Small ones for a device that are neighbours in a file are read together, through one
slot: a request, a copy and a wait for each would cost more than their bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final

import torch

from ..sources.safetensors_header import StoredTensor
from .pages import PIECE
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

    @property
    def offset(self) -> int:
        """First byte within the file."""
        return self.job.source.offset + self.first

    @property
    def end(self) -> int:
        """One past the last byte within the file."""
        return self.offset + self.nbytes

    @property
    def device(self) -> torch.device | None:
        """The device it is sent to; None where it stays on the host."""
        return self.job.device

    def room(self) -> torch.Tensor:
        """Return the elements of the target that it is for."""
        assert isinstance(self.job.target, torch.Tensor)  # noqa: S101  # pages of files are only brought
        start, count = self.first // self.job.dtype.itemsize, self.nbytes // self.job.dtype.itemsize
        return self.job.target.view(-1)[start : start + count]


@dataclass(frozen=True, slots=True)
class Piece:
    """What is read at once: one part, or parts side by side in a file that go to one device."""

    parts: tuple[Stretch, ...]

    @property
    def nbytes(self) -> int:
        """Bytes that are wanted of it."""
        return sum(part.nbytes for part in self.parts)

    @property
    def extent(self) -> int:
        """Bytes from the first to the last."""
        return self.parts[-1].end - self.parts[0].offset

    @property
    def device(self) -> torch.device | None:
        """The device it is sent to; None where it stays on the host."""
        return self.parts[0].device


def pieces_of(jobs: Iterable[Job]) -> list[Piece]:
    """Return what is read, jobs in the order of their files; where it goes to several devices, in turns."""
    lines: dict[torch.device | None, list[Piece]] = {}
    for piece in _together(part for job in jobs for part in _parts(job)):
        lines.setdefault(piece.device, []).append(piece)
    return [piece for turn in zip_longest(*lines.values()) for piece in turn if piece is not None]


def _parts(job: Job) -> Iterator[Stretch]:
    size = SLOT if job.device is not None or job.direct else PIECE
    for first in range(0, job.source.nbytes, size):
        yield Stretch(job, first, min(size, job.source.nbytes - first))


def _together(parts: Iterable[Stretch]) -> Iterator[Piece]:
    row: list[Stretch] = []
    for part in parts:
        if row and not _goes_along(part, row[0], row[-1]):
            yield Piece(tuple(row))
            row = []
        row.append(part)
    if row:
        yield Piece(tuple(row))


def _goes_along(part: Stretch, first: Stretch, last: Stretch) -> bool:
    """Say whether a part is read with those before it: what lies between is small, and it lands aligned."""
    return (
        part.device is not None
        and part.device == first.device
        and part.job.source.file == first.job.source.file
        and last.end <= part.offset <= last.end + GAP
        and part.end - first.offset <= SLOT
        and (part.offset - first.offset) % part.job.dtype.itemsize == 0
    )

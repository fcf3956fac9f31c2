"""What is read, cut into pieces: one request to a file each.

Large tensors are cut. Small ones for a device that are neighbours in a file are read together, through one
slot: a request, a copy and a wait for each would cost more than their bytes. Pieces are made one by one, and
memory of devices with them, so that the first is on its way while the rest is prepared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from typing import Final, NamedTuple

import torch

from ..machine.pages import PIECE
from ..sources.safetensors_header import StoredTensor
from .ring import SLOT
from .stored_files import Mapped

GAP: Final = 64 << 10
"""Bytes between two tensors that are read in vain rather than by two requests."""


class Later:
    """A tensor on a device whose memory is asked for when what fills it is about to be read."""

    __slots__ = ("_made", "device", "dtype", "shape")

    def __init__(self, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> None:
        self.shape, self.dtype, self.device = shape, dtype, device
        self._made: torch.Tensor | None = None

    @property
    def made(self) -> bool:
        """Whether it was asked for."""
        return self._made is not None

    def tensor(self) -> torch.Tensor:
        """Return it; asks for memory the first time."""
        if self._made is None:
            self._made = torch.empty(self.shape, dtype=self.dtype, device=self.device)
        return self._made


class Job(NamedTuple):
    """One stored tensor and the contiguous tensor that takes it, or elements of one."""

    source: StoredTensor
    dtype: torch.dtype
    """What the stored bytes are."""
    target: torch.Tensor | Later | Mapped
    """What takes them; pages of the file itself are only brought."""
    start: int = 0
    """First element of the target that is theirs."""

    @property
    def device(self) -> torch.device | None:
        """The device it is sent to; None where it stays on the host."""
        target = self.target
        return None if isinstance(target, Mapped) or target.device.type == "cpu" else target.device

    @property
    def direct(self) -> bool:
        """Whether bytes are as they stay: on the host a large piece of them takes no scratch."""
        return isinstance(self.target, torch.Tensor) and self.target.dtype == self.dtype


class Stretch(NamedTuple):
    """Some bytes of a stored tensor, and what takes them."""

    job: Job
    first: int
    """First byte within the stored tensor."""
    nbytes: int
    room: torch.Tensor | None
    """The elements of the target that it is for; pages of files are only brought."""
    new: bool = False
    """Whether it is the first in memory that was asked for just now: others may still use that."""

    @property
    def offset(self) -> int:
        """First byte within the file."""
        return self.job.source.offset + self.first

    @property
    def end(self) -> int:
        """One past the last byte within the file."""
        return self.offset + self.nbytes


class Piece(NamedTuple):
    """What is read at once: one part, or parts side by side in a file that go to one device."""

    parts: tuple[Stretch, ...]
    device: torch.device | None
    """The device it is sent to; None where it stays on the host."""

    @property
    def nbytes(self) -> int:
        """Bytes that are wanted of it."""
        return sum(part.nbytes for part in self.parts)

    @property
    def new(self) -> bool:
        """Whether memory it goes to was asked for just now."""
        return any(part.new for part in self.parts)

    @property
    def extent(self) -> int:
        """Bytes from the first to the last."""
        return self.parts[-1].end - self.parts[0].offset


def by_device(jobs: Iterable[Job]) -> dict[torch.device | None, list[Job]]:
    """Return jobs by the device they are sent to."""
    lines: dict[torch.device | None, list[Job]] = {}
    for job in jobs:
        lines.setdefault(job.device, []).append(job)
    return lines


def pieces_of(lines: Mapping[torch.device | None, Iterable[Job]]) -> Iterator[Piece]:
    """Yield what is read, jobs in the order of their files; what goes to several devices in turns."""
    for turn in zip_longest(*(_together(line, device) for device, line in lines.items())):
        yield from (piece for piece in turn if piece is not None)


def _together(jobs: Iterable[Job], device: torch.device | None) -> Iterator[Piece]:
    row: list[Stretch] = []
    for job in jobs:
        for part in _parts(job, device):
            if row and not (device is not None and _goes_along(part, row[0], row[-1])):
                yield Piece(tuple(row), device)
                row = []
            row.append(part)
    if row:
        yield Piece(tuple(row), device)


def _parts(job: Job, device: torch.device | None) -> Iterator[Stretch]:
    """Yield a tensor in parts; their rooms are made at once, while no thread waits for its turn in Python."""
    nbytes = job.source.nbytes
    size = SLOT if device is not None or job.direct else PIECE
    new = isinstance(job.target, Later) and not job.target.made
    whole = _room(job) if nbytes else None
    if nbytes <= size or whole is None:
        for first in range(0, nbytes, size):
            yield Stretch(job, first, min(size, nbytes - first), whole, new and not first)
        return
    rooms = whole.split(size // job.dtype.itemsize)  # type: ignore[no-untyped-call]
    for first, room in zip(range(0, nbytes, size), rooms, strict=True):
        yield Stretch(job, first, min(size, nbytes - first), room, new and not first)


def _room(job: Job) -> torch.Tensor | None:
    """Return the elements that a job fills, side by side; pages of files are only brought."""
    if isinstance(job.target, Mapped):
        return None
    flat = (job.target.tensor() if isinstance(job.target, Later) else job.target).view(-1)
    count = job.source.nbytes // job.dtype.itemsize
    return flat if count == flat.numel() else flat[job.start : job.start + count]


def _goes_along(part: Stretch, first: Stretch, last: Stretch) -> bool:
    """Say whether a part is read with those before it: what lies between is small, and it lands aligned."""
    return (
        part.job.source.file == first.job.source.file
        and last.end <= part.offset <= last.end + GAP
        and part.end - first.offset <= SLOT
        and (part.offset - first.offset) % part.job.dtype.itemsize == 0
    )

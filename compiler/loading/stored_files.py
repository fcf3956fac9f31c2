"""The files of a checkpoint while weights are read and while disk units are served from them.

A file is known by what it was when its header was read. Whoever uses its bytes later can ask whether
it still is that file, and gets a finding that names file and tensor where it is not.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from ...ir import Diagnostic, PlanError
from ...ir.rules.loading import CHANGED_CHECKPOINT, UNREADABLE_WEIGHTS
from ..machine import pages
from ..machine.pages import PIECE, Span
from ..sources.checkpoint_index import CheckpointIndex
from ..sources.safetensors_header import StoredTensor

_STRETCH: Final = 16 << 20
"""Bytes of a tensor that are copied while the disk brings more: what a pinned slot holds."""


class File:
    """One open file; closed when nothing is served from it any more."""

    def __init__(self, path: Path, descriptor: int, before: os.stat_result) -> None:
        self.path, self.descriptor = path, descriptor
        self._before = before
        self.close = weakref.finalize(self, os.close, descriptor)
        self.pages: mmap.mmap | None = None

    def difference(self) -> str | None:
        """Say how the file differs from what it was; None when it does not."""
        now, before = os.fstat(self.descriptor), self._before
        if now.st_size != before.st_size:
            return f"{before.st_size} bytes then, {now.st_size} bytes now"
        if (now.st_ino, now.st_dev) != (before.st_ino, before.st_dev):
            return "another file has its name"
        return None if now.st_mtime_ns == before.st_mtime_ns else "its time of change differs"

    def mapped(self) -> mmap.mmap:
        """Return the pages of the file; writes stay private."""
        if self.pages is None:
            self.pages = mmap.mmap(self.descriptor, 0, access=mmap.ACCESS_COPY)
        return self.pages


@dataclass(frozen=True, slots=True)
class Mapped:
    """A tensor whose bytes are in a file."""

    tensor: torch.Tensor
    source: StoredTensor
    file: File

    @property
    def span(self) -> Span:
        """Where the tensor is in memory."""
        return self.tensor.data_ptr(), self.tensor.nbytes

    def bring(self, first: int, nbytes: int) -> None:
        """Return when bytes of the tensor are in memory, ready to be used."""
        if not pages.bring(self.tensor.data_ptr() + first, nbytes):
            self.check()
            reason = "the system cannot bring its pages"
            raise PlanError([unreadable(self.file.path, self.source, reason)])

    def bring_all(self, first: int, nbytes: int) -> None:
        """Bring bytes of the tensor in pieces, so that other threads get their turn in between."""
        for start in range(first, first + nbytes, PIECE):
            self.bring(start, min(PIECE, first + nbytes - start))

    def stretches(self, room: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the tensor with its place in memory of its shape, a stretch of both when that is in memory.

        A device copies one while the disk brings the next.
        """
        flat, there = self.tensor.view(-1), room.view(-1)
        count = max(1, _STRETCH // flat.element_size())
        if flat.numel() <= count:  # most rows are: slicing takes longer than all else here
            self.bring_all(0, flat.nbytes)
            yield flat, there
            return
        for first in range(0, flat.numel(), count):
            part = flat[first : first + count]
            self.bring_all(first * flat.element_size(), part.nbytes)
            yield part, there[first : first + count]

    def check(self) -> None:
        """Raise `PlanError` if the file is not what it was when the model was loaded."""
        difference = self.file.difference()
        if difference is not None:
            message = f"`{self.file.path}` changed while `{self.source.path}` is used from it: {difference}"
            help_ = "load the model again, and replace files by renaming new ones over them"
            raise PlanError([Diagnostic(CHANGED_CHECKPOINT, message, help=help_)])


class OpenFiles:
    """The files of a checkpoint, held open from the first use on."""

    def __init__(self, index: CheckpointIndex) -> None:
        self._index = index
        self._seen = [_status(file.path) for file in index.files]
        self._opened: dict[int, File] = {}

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Keep files open inside; after it those that something is served from, none if it fails."""
        try:
            yield
        except BaseException:
            for file in self._opened.values():
                file.close()
            raise
        finally:
            self._opened.clear()

    def path(self, source: StoredTensor) -> Path:
        """Return the file of a tensor."""
        return self._index.file_of(source)

    def file(self, source: StoredTensor) -> File:
        """Return the open file of a tensor; not thread-safe, so call it before threads start."""
        if source.file not in self._opened:
            path = self.path(source)
            before = self._seen[source.file]
            try:
                file = File(path, os.open(path, os.O_RDONLY), before or path.stat())
            except OSError as error:
                raise PlanError([unreadable(path, source, error.strerror or str(error))]) from None
            self._opened[source.file] = file
            _refuse_changed(file, self._index.files[source.file].nbytes, source)
        return self._opened[source.file]

    def mapped(self, source: StoredTensor, dtype: torch.dtype) -> Mapped:
        """Return the stored tensor in place: pages come from the file when touched, writes stay private."""
        file = self.file(source)
        if not source.nbytes:
            return Mapped(torch.empty(source.shape, dtype=dtype), source, file)
        count = source.nbytes // dtype.itemsize
        flat = torch.frombuffer(file.mapped(), dtype=dtype, count=count, offset=source.offset)
        return Mapped(flat.view(source.shape), source, file)

    def same(self, first: StoredTensor, second: StoredTensor) -> bool:
        """Say whether two stored tensors have the same bytes; reads until they differ."""
        if (first.nbytes, first.dtype, first.shape) != (second.nbytes, second.dtype, second.shape):
            return False
        pieces = [torch.empty(min(PIECE, first.nbytes), dtype=torch.uint8) for _ in range(2)]
        for start in range(0, first.nbytes, PIECE):
            count = min(PIECE, first.nbytes - start)
            for source, piece in zip((first, second), pieces, strict=True):
                self.read(source, start, memory_of(piece[:count]))
            if not torch.equal(pieces[0][:count], pieces[1][:count]):
                return False
        return True

    def read(self, source: StoredTensor, start: int, buffer: memoryview) -> None:
        """Fill a buffer with a tensor's bytes from ``start`` on."""
        try:
            _read_fully(self.file(source).descriptor, buffer, source.offset + start)
        except OSError as error:
            reason = error.strerror or str(error)
            raise PlanError([unreadable(self.path(source), source, reason)]) from None

    def check_unchanged(self) -> None:
        """Raise `PlanError` if a file is not what it was when its header was read."""
        for number, file in self._opened.items():
            source = next(tensor for tensor in self._index.tensors.values() if tensor.file == number)
            _refuse_changed(file, self._index.files[number].nbytes, source)


def _status(path: Path) -> os.stat_result | None:
    """Return what is known of a file without opening it; None if it went away, which opening it reports."""
    try:
        return path.stat()
    except OSError:
        return None


def _refuse_changed(file: File, nbytes: int, source: StoredTensor) -> None:
    size = os.fstat(file.descriptor).st_size
    resized = f"{nbytes} bytes then, {size} bytes now" if size != nbytes else None
    difference = resized or file.difference()
    if difference is not None:
        message = f"`{file.path}` changed while it was read, with `{source.path}` in it: {difference}"
        help_ = "load again when nothing writes to it"
        raise PlanError([Diagnostic(CHANGED_CHECKPOINT, message, help=help_)])


def memory_of(tensor: torch.Tensor) -> memoryview:
    """Return a contiguous tensor's memory as bytes."""
    array: Any = tensor.view(torch.uint8).numpy()
    return memoryview(array)


def _read_fully(descriptor: int, buffer: memoryview, offset: int) -> None:
    while buffer:
        count = os.preadv(descriptor, [buffer], offset)
        if count == 0:
            raise OSError(0, f"the file ends at byte {offset}")
        buffer, offset = buffer[count:], offset + count


def unreadable(path: Path, source: StoredTensor, reason: str) -> Diagnostic:
    """Return the finding that a tensor's bytes could not be read."""
    message = f"cannot read `{source.path}` from `{path}`: {reason}"
    return Diagnostic(UNREADABLE_WEIGHTS, message, help="check the file, then load again")

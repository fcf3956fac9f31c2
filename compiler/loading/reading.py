"""Stored bytes into tensors: in file order, by a few threads, straight into the memory they stay in.

Bytes are read with ``pread`` into the tensor itself where nothing is converted, and through a small
piece of scratch memory per thread where something is: a dtype, or another device. Peak memory is
what stays plus the scratch. A failure ends all threads and names file and tensor.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeAlias

import torch

from ...ir import Diagnostic, PlanError
from ...ir.rules.loading import CHANGED_CHECKPOINT, UNREADABLE_WEIGHTS
from ..sources.checkpoint_index import CheckpointIndex
from ..sources.safetensors_header import StoredTensor

PIECE: Final = 2 << 20
"""Bytes read at a time; the scratch of one thread. A multiple of every element size."""
REQUEST: Final = 128 << 10
"""Bytes of one request to read ahead: what Linux reads ahead on the slowest kinds of disk."""
THREADS: Final = 4
Progress: TypeAlias = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Job:
    """One stored tensor and the contiguous tensor that takes it."""

    source: StoredTensor
    dtype: torch.dtype
    """What the stored bytes are."""
    target: torch.Tensor


@dataclass(frozen=True, slots=True)
class _Piece:
    job: Job
    first: int
    """First byte within the stored tensor."""
    nbytes: int


@dataclass(frozen=True, slots=True)
class Mapped:
    """A tensor whose bytes are in a file."""

    tensor: torch.Tensor
    pages: mmap.mmap | None
    offset: int

    def read_ahead(self) -> None:
        """Ask the system to bring the bytes into its cache; returns before they are there.

        Systems serve only the first part of a large request, as much as they read ahead by themselves.
        """
        advice = getattr(mmap, "MADV_WILLNEED", None)
        if self.pages is None or advice is None:
            return
        end = self.offset + self.tensor.nbytes
        for start in range(self.offset - self.offset % mmap.PAGESIZE, end, REQUEST):
            self.pages.madvise(advice, start, min(REQUEST, end - start))


class OpenFiles:
    """The files of a checkpoint, held open and known by size and time, so that a change is noticed."""

    def __init__(self, index: CheckpointIndex) -> None:
        self._index = index
        self._opened: dict[int, tuple[int, os.stat_result]] = {}
        self._maps: dict[int, mmap.mmap] = {}

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Keep files open inside; maps made inside stay valid after it."""
        try:
            yield
        finally:
            for descriptor, _ in self._opened.values():
                os.close(descriptor)
            self._opened.clear()
            self._maps.clear()

    def path(self, source: StoredTensor) -> Path:
        """Return the file of a tensor."""
        return self._index.file_of(source)

    def descriptor(self, source: StoredTensor) -> int:
        """Return the open file of a tensor; not thread-safe, so call it before threads start."""
        if source.file not in self._opened:
            stored = self._index.files[source.file]
            try:
                descriptor = os.open(stored.path, os.O_RDONLY)
            except OSError as error:
                raise PlanError([_unreadable(stored.path, source, error.strerror or str(error))]) from None
            status = os.fstat(descriptor)
            self._opened[source.file] = (descriptor, status)
            if status.st_size != stored.nbytes:
                raise PlanError([_changed(stored.path, stored.nbytes, status.st_size)])
        return self._opened[source.file][0]

    def mapped(self, source: StoredTensor, dtype: torch.dtype) -> Mapped:
        """Return the stored tensor in place: pages come from the file when touched, writes stay private."""
        if not source.nbytes:
            return Mapped(torch.empty(source.shape, dtype=dtype), None, 0)
        if source.file not in self._maps:
            self._maps[source.file] = mmap.mmap(self.descriptor(source), 0, access=mmap.ACCESS_COPY)
        count = source.nbytes // dtype.itemsize
        flat = torch.frombuffer(self._maps[source.file], dtype=dtype, count=count, offset=source.offset)
        return Mapped(flat.view(source.shape), self._maps[source.file], source.offset)

    def same(self, first: StoredTensor, second: StoredTensor) -> bool:
        """Say whether two stored tensors have the same bytes; reads until they differ."""
        if (first.nbytes, first.dtype, first.shape) != (second.nbytes, second.dtype, second.shape):
            return False
        pieces = [torch.empty(min(PIECE, first.nbytes), dtype=torch.uint8) for _ in range(2)]
        for start in range(0, first.nbytes, PIECE):
            count = min(PIECE, first.nbytes - start)
            for source, piece in zip((first, second), pieces, strict=True):
                self.read(source, start, memoryview(_array(piece[:count])))
            if not torch.equal(pieces[0][:count], pieces[1][:count]):
                return False
        return True

    def read(self, source: StoredTensor, start: int, buffer: memoryview) -> None:
        """Fill a buffer with a tensor's bytes from ``start`` on."""
        try:
            _read_fully(self.descriptor(source), buffer, source.offset + start)
        except OSError as error:
            reason = error.strerror or str(error)
            raise PlanError([_unreadable(self.path(source), source, reason)]) from None

    def check_unchanged(self) -> None:
        """Raise `PlanError` if a file is not what it was when it was opened."""
        for number, (descriptor, before) in self._opened.items():
            now = os.fstat(descriptor)
            if (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
                raise PlanError([_changed(self._index.files[number].path, before.st_size, now.st_size)])


def read_all(jobs: Sequence[Job], files: OpenFiles, progress: Progress | None) -> None:
    """Fill every target; on any failure or interrupt no thread is left and the exception is raised.

    ``progress`` is called in this thread with bytes done and bytes in all.
    """
    ordered = sorted(jobs, key=lambda job: (job.source.file, job.source.offset))
    for job in ordered:
        files.descriptor(job.source)
    pieces = [piece for job in ordered for piece in _pieces(job)]
    total = sum(piece.nbytes for piece in pieces)
    if not pieces:
        return
    readers = _Readers(pieces, files)
    try:
        readers.start()
        done = 0
        for nbytes in readers.results():
            done += nbytes
            if progress is not None:
                progress(done, total)
    finally:
        readers.end()


class _Readers:
    """A few threads that read pieces until there are none, one fails or they are told to end.

    The threads are known before they start: a pool's may be lost when an interrupt meets its start.
    """

    def __init__(self, pieces: Sequence[_Piece], files: OpenFiles) -> None:
        self._count, self._files = len(pieces), files
        self._waiting: SimpleQueue[_Piece] = SimpleQueue()
        for piece in pieces:
            self._waiting.put(piece)
        self._results: SimpleQueue[int | BaseException] = SimpleQueue()
        self._over = False
        names = (f"compile-plan-read-{number}" for number in range(min(THREADS, len(pieces))))
        self._threads = [threading.Thread(target=self._work, name=name) for name in names]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def results(self) -> Iterator[int]:
        """Yield the bytes of each piece when it is read; raises what a thread raised."""
        for _ in range(self._count):
            result = self._results.get()
            if isinstance(result, BaseException):
                raise result
            yield result

    def end(self) -> None:
        """Return when no thread is left, however often the user interrupts; then the interrupt goes on."""
        self._over = True
        interrupt: KeyboardInterrupt | None = None
        for thread in self._threads:
            while thread in threading.enumerate():
                try:  # one that is just starting cannot be joined yet; it will see that all is over
                    thread.join() if thread.is_alive() else time.sleep(0.001)
                except KeyboardInterrupt as error:
                    interrupt = error
        if interrupt is not None:
            raise interrupt

    def _work(self) -> None:
        with suppress(Empty):
            while not self._over:
                piece = self._waiting.get_nowait()
                try:
                    _read(piece, self._files)
                except BaseException as error:  # noqa: BLE001  # raised where the results are taken
                    self._results.put(error)
                    return
                self._results.put(piece.nbytes)


def _pieces(job: Job) -> Iterator[_Piece]:
    for first in range(0, job.source.nbytes, PIECE):
        yield _Piece(job, first, min(PIECE, job.source.nbytes - first))


def _read(piece: _Piece, files: OpenFiles) -> None:
    job = piece.job
    start, count = piece.first // job.dtype.itemsize, piece.nbytes // job.dtype.itemsize
    with torch.inference_mode(mode=False), torch.no_grad():
        part = job.target.view(-1)[start : start + count]
        direct = part.dtype == job.dtype and part.device.type == "cpu"
        landing = part if direct else torch.empty(count, dtype=job.dtype)
        files.read(job.source, piece.first, memoryview(_array(landing)))
        if not direct:
            part.copy_(landing)


def _array(tensor: torch.Tensor) -> Any:  # noqa: ANN401  # numpy's types do not say it is a buffer
    return tensor.view(torch.uint8).numpy()


def _read_fully(descriptor: int, buffer: memoryview, offset: int) -> None:
    while buffer:
        count = os.preadv(descriptor, [buffer], offset)
        if count == 0:
            raise OSError(0, f"the file ends at byte {offset}")
        buffer, offset = buffer[count:], offset + count


def _unreadable(path: Path, source: StoredTensor, reason: str) -> Diagnostic:
    message = f"cannot read `{source.path}` from `{path}`: {reason}"
    return Diagnostic(UNREADABLE_WEIGHTS, message, help="check the file, then load again")


def _changed(path: Path, before: int, now: int) -> Diagnostic:
    what = f"{before} bytes then, {now} bytes now" if before != now else "its time of change differs"
    message = f"`{path}` changed while it was read: {what}"
    return Diagnostic(CHANGED_CHECKPOINT, message, help="load again when nothing writes to it")

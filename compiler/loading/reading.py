"""Stored bytes into tensors: in file order, by a few threads, straight into the memory they stay in.

Bytes are read with ``pread`` into the tensor itself where nothing is converted, and through a small
piece of scratch memory per thread where a dtype is. For other devices the scratch is a ring of slots, pinned
for cards: one is filled while the card copies from the other. Tensors that stay in the
file's pages have them brought. Peak memory is what stays plus the scratch. A failure ends all threads
and names file and tensor.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Final, TypeAlias

import torch

from ...ir import PlanError
from .jobs import Job, Piece, Stretch, pieces_of
from .slots import Slots
from .stored_files import Mapped, OpenFiles, memory_of

THREADS: Final = 4
SENDING_THREADS: Final = 8
"""Threads that fill slots for devices: one core copies a seventh of what a link takes."""
Progress: TypeAlias = Callable[[int, int], None]


def read_all(jobs: Sequence[Job], files: OpenFiles, progress: Progress | None) -> None:
    """Fill every target; on any failure or interrupt no thread is left and the exception is raised.

    ``progress`` is called in this thread with bytes done and bytes in all.
    """
    ordered = sorted(jobs, key=lambda job: (job.source.file, job.source.offset))
    for job in ordered:
        files.file(job.source)
    pieces = pieces_of(ordered)
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

    def __init__(self, pieces: Sequence[Piece], files: OpenFiles) -> None:
        self._count, self._files = len(pieces), files
        self._waiting: SimpleQueue[Piece] = SimpleQueue()
        for piece in pieces:
            self._waiting.put(piece)
        self._results: SimpleQueue[int | BaseException] = SimpleQueue()
        self._over = False
        sent = [piece.extent for piece in pieces if piece.device is not None]
        self._slot = max(sent, default=0)
        threads = min(SENDING_THREADS, os.cpu_count() or THREADS) if sent else THREADS
        names = (f"compile-plan-read-{number}" for number in range(min(threads, len(pieces))))
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
        slots = Slots(self._slot)
        try:
            with suppress(Empty):
                while not self._over:
                    piece = self._waiting.get_nowait()
                    _read(piece, self._files, slots)
                    if self._waiting.empty():
                        slots.settle()  # before the last piece counts as done
                    self._results.put(piece.nbytes)
            slots.settle()
        except BaseException as error:  # noqa: BLE001  # raised where the results are taken
            with suppress(RuntimeError):
                slots.settle()  # copies under way end before what they copy from and to does
            self._results.put(error)


def _read(piece: Piece, files: OpenFiles, slots: Slots) -> None:
    with torch.inference_mode(mode=False), torch.no_grad():
        if piece.device is None:
            _fill(piece.parts[0], files)
        else:
            _send(piece, piece.device, files, slots)


def _send(piece: Piece, device: torch.device, files: OpenFiles, slots: Slots) -> None:
    slot, start = slots.free(device)[: piece.extent], piece.parts[0].offset
    _read_together(piece, files, slot)
    landings = (slot[part.offset - start : part.end - start].view(part.job.dtype) for part in piece.parts)
    slots.send(device, [(landing, part.room()) for landing, part in zip(landings, piece.parts, strict=True)])


def _read_together(piece: Piece, files: OpenFiles, slot: torch.Tensor) -> None:
    first = piece.parts[0]
    try:
        files.read(first.job.source, first.first, memory_of(slot))
    except PlanError:
        for part in piece.parts:  # the one that cannot be read says so
            files.read(part.job.source, part.first, memory_of(slot[: part.nbytes]))
        raise


def _fill(part: Stretch, files: OpenFiles) -> None:
    job = part.job
    if isinstance(job.target, Mapped):
        job.target.bring(part.first, part.nbytes)
        return
    room = part.room()
    landing = room if job.direct else torch.empty(room.numel(), dtype=job.dtype)
    files.read(job.source, part.first, memory_of(landing))
    if not job.direct:
        room.copy_(landing)

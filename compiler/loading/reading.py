"""Stored bytes into tensors: in file order, by a few threads, straight into the memory they stay in.

Bytes are read with ``pread`` into the tensor itself where nothing is converted, and through a small
piece of scratch memory per thread where something is: a dtype, or another device. For cards the scratch
is a pair of pinned slots: one is filled while the card copies from the other. Tensors that stay in the
file's pages have them brought. Peak memory is what stays plus the scratch. A failure ends all threads
and names file and tensor.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from queue import Empty, SimpleQueue
from typing import Final, TypeAlias

import torch

from ..sources.safetensors_header import StoredTensor
from .slots import Slots
from .stored_files import PIECE, Mapped, OpenFiles, memory_of

THREADS: Final = 4
CARD_THREADS: Final = 8
"""Threads that fill slots for cards: one core copies a fifth of what a link takes."""
Progress: TypeAlias = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Job:
    """One stored tensor and the contiguous tensor that takes it."""

    source: StoredTensor
    dtype: torch.dtype
    """What the stored bytes are."""
    target: torch.Tensor | Mapped
    """What takes them; pages of the file itself are only brought."""


@dataclass(frozen=True, slots=True)
class _Piece:
    job: Job
    first: int
    """First byte within the stored tensor."""
    nbytes: int


def read_all(jobs: Sequence[Job], files: OpenFiles, progress: Progress | None) -> None:
    """Fill every target; on any failure or interrupt no thread is left and the exception is raised.

    ``progress`` is called in this thread with bytes done and bytes in all.
    """
    ordered = sorted(jobs, key=lambda job: (job.source.file, job.source.offset))
    for job in ordered:
        files.file(job.source)
    pieces = _in_turns([piece for job in ordered for piece in _pieces(job)])
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
        cards = any(_goes_to_a_card(piece) for piece in pieces)
        threads = min(CARD_THREADS, os.cpu_count() or THREADS) if cards else THREADS
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
        slots = Slots()
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
            self._results.put(error)


def _goes_to_a_card(piece: _Piece) -> bool:
    return isinstance(piece.job.target, torch.Tensor) and piece.job.target.device.type == "cuda"


def _in_turns(pieces: Sequence[_Piece]) -> list[_Piece]:
    """Return pieces so that several cards are filled at once, those of each in the order of the file."""
    lines: dict[object, list[_Piece]] = {}
    for piece in pieces:
        target = piece.job.target
        lines.setdefault(target.device if _goes_to_a_card(piece) else None, []).append(piece)  # type: ignore[union-attr]
    turns = zip_longest(*lines.values())
    return [piece for turn in turns for piece in turn if piece is not None]


def _pieces(job: Job) -> Iterator[_Piece]:
    for first in range(0, job.source.nbytes, PIECE):
        yield _Piece(job, first, min(PIECE, job.source.nbytes - first))


def _read(piece: _Piece, files: OpenFiles, slots: Slots) -> None:
    job = piece.job
    if isinstance(job.target, Mapped):
        job.target.read_ahead(piece.first, piece.nbytes)
        job.target.bring(piece.first, piece.nbytes)
        return
    start, count = piece.first // job.dtype.itemsize, piece.nbytes // job.dtype.itemsize
    with torch.inference_mode(mode=False), torch.no_grad():
        part = job.target.view(-1)[start : start + count]
        if part.device.type == "cuda":
            landing = slots.free(part.device)[: piece.nbytes]
            files.read(job.source, piece.first, memory_of(landing))
            slots.send(landing.view(job.dtype), part)
            return
        direct = part.dtype == job.dtype and part.device.type == "cpu"
        landing = part if direct else torch.empty(count, dtype=job.dtype)
        files.read(job.source, piece.first, memory_of(landing))
        if not direct:
            part.copy_(landing)

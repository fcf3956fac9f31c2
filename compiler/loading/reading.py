"""Stored bytes into tensors: in file order, by a few threads, straight into the memory they stay in.

Bytes are read with ``pread`` into the tensor itself where nothing is converted, and through a small
piece of scratch memory per thread where a dtype is. For other devices the scratch is a ring of slots, pinned
for cards: one is filled while the card copies from the other. Tensors that stay in the
file's pages have them brought. Peak memory is what stays plus the scratch. A failure ends all threads
and names file and tensor.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Final, TypeAlias

import torch

from ...ir import PlanError
from .jobs import Job, Piece, Stretch, pieces_of
from .slots import Sender, Slots, first_card, sending_threads
from .stored_files import Mapped, OpenFiles, memory_of
from .streaming.lanes import lane_to

THREADS: Final = 4
_TOLD_EVERY: Final = 0.02
"""Seconds between what a thread says of its progress: hearing of every piece takes turns from the readers."""
Progress: TypeAlias = Callable[[int, int], None]


def read_all(
    jobs: Sequence[Job], files: OpenFiles, progress: Progress | None, slots: Slots | None = None
) -> None:
    """Fill every target; on any failure or interrupt no thread is left and the exception is raised.

    ``progress`` is called in this thread with bytes done and bytes in all. ``slots`` were got ready before,
    for pieces of any size; without them they are made for the pieces there are.
    """
    ordered = sorted(jobs, key=lambda job: (job.source.file, job.source.offset))
    for job in ordered:
        files.file(job.source)
    pieces = pieces_of(ordered)
    total = sum(piece.nbytes for piece in pieces)
    if not pieces:
        return
    readers = _Readers(pieces, files, slots)
    try:
        readers.start()
        done = 0
        while done < total:
            done += readers.read()
            if progress is not None:
                progress(done, total)
    finally:
        readers.end()


class _Readers:
    """A few threads that read pieces until there are none, one fails or they are told to end.

    The threads are known before they start: a pool's may be lost when an interrupt meets its start.
    """

    def __init__(self, pieces: Sequence[Piece], files: OpenFiles, slots: Slots | None) -> None:
        self._files = files
        self._waiting: SimpleQueue[Piece] = SimpleQueue()
        for piece in pieces:
            self._waiting.put(piece)
        self._results: SimpleQueue[int | BaseException] = SimpleQueue()
        self._over = False
        sent = [(piece.device, piece.extent) for piece in pieces if piece.device is not None]
        devices = list(dict.fromkeys(device for device, _ in sent))
        count = min(sending_threads() if sent else THREADS, len(pieces))
        if sent and slots is None:
            largest = max(extent for _, extent in sent)
            slots = Slots(largest, count, first_card(devices))
        self._slots = slots if sent else None
        # In the caller's thread: this is what it has asked of the devices.
        self._before = {device: lane_to(device).mark() for device in devices}
        names = (f"compile-plan-read-{number}" for number in range(count))
        self._threads = [
            threading.Thread(target=self._work, args=(number,), name=name)
            for number, name in enumerate(names)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def read(self) -> int:
        """Return bytes that were read meanwhile, when there are any; raises what a thread raised."""
        result = self._results.get()
        if isinstance(result, BaseException):
            raise result
        return result

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

    def _work(self, number: int) -> None:
        sender: Sender | None = None
        try:
            with torch.inference_mode(mode=False), torch.no_grad():
                if self._slots is not None:
                    sender = Sender(self._slots.ring(number), self._before)
                self._read(sender)
        except BaseException as error:  # noqa: BLE001  # raised where the results are taken
            with suppress(RuntimeError):
                if sender is not None:
                    sender.settle()  # copies under way end before what they copy from and to does
            self._results.put(error)

    def _read(self, sender: Sender | None) -> None:
        done, told = 0, time.monotonic()
        with suppress(Empty):
            while not self._over:
                piece = self._waiting.get_nowait()
                if sender is None or piece.device is None:
                    _fill(piece.parts[0], self._files)
                else:
                    _send(piece, piece.device, self._files, sender)
                done += piece.nbytes
                if time.monotonic() - told > _TOLD_EVERY and not self._waiting.empty():
                    self._results.put(done)
                    done, told = 0, time.monotonic()
        if sender is not None:
            sender.settle()  # before the last piece counts as done
        if done:
            self._results.put(done)


def _send(piece: Piece, device: torch.device, files: OpenFiles, sender: Sender) -> None:
    slot, start = sender.free(), piece.parts[0].offset
    _read_together(piece, files, slot.memory[: piece.extent])
    pairs = [
        (slot.elements(part.job.dtype, part.offset - start, part.nbytes), part.room)
        for part in piece.parts
        if part.room is not None
    ]
    sender.send(device, slot, pairs)


def _read_together(piece: Piece, files: OpenFiles, memory: memoryview) -> None:
    first = piece.parts[0]
    try:
        files.read(first.job.source, first.first, memory)
    except PlanError:
        for part in piece.parts:  # the one that cannot be read says so
            files.read(part.job.source, part.first, memory[: part.nbytes])
        raise


def _fill(part: Stretch, files: OpenFiles) -> None:
    job, room = part.job, part.room
    if isinstance(job.target, Mapped):
        job.target.bring(part.first, part.nbytes)
    if room is None:
        return
    landing = room if job.direct else torch.empty(room.numel(), dtype=job.dtype)
    files.read(job.source, part.first, memory_of(landing))
    if not job.direct:
        room.copy_(landing)

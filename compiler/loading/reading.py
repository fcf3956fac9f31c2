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
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from operator import attrgetter
from queue import Empty, SimpleQueue
from typing import Final, TypeAlias

import torch

from ...ir import PlanError
from .jobs import Job, Piece, Stretch, by_device, pieces_of
from .ring import SLOT, SLOTS, Mark
from .slots import Sender, Slots, first_card, sending_threads
from .stored_files import Mapped, OpenFiles, memory_of
from .streaming.lanes import Lane, lane_to

THREADS: Final = 4
_TOLD_EVERY: Final = 0.02
"""Seconds between what a thread says of its progress: hearing of every piece takes turns from the readers."""
_LOAD: Final = SLOT // 2
"""Bytes that a thread takes at once, at least."""
_AHEAD: Final = 4
"""What each thread takes at once is got ready so many times before it is read."""
_PAUSE: Final = 0.002
"""Seconds to leave Python to the threads when so many are ready."""
_LISTENED: Final = 0.1
"""Seconds until a thread that has nothing to read looks whether all is over."""
Progress: TypeAlias = Callable[[int, int], None]
_Load: TypeAlias = list[tuple[Piece, Mark]]
"""Pieces with what copies of each come after."""
_place: Final = attrgetter("source.file", "source.offset")


def read_all(
    jobs: Sequence[Job], files: OpenFiles, progress: Progress | None, slots: Slots | None = None
) -> None:
    """Fill every target; on any failure or interrupt no thread is left and the exception is raised.

    ``progress`` is called in this thread with bytes done and bytes in all. ``slots`` were got ready before,
    for pieces of any size; without them they are made for the pieces there are. The first pieces are read
    while others are made ready in this thread.
    """
    ordered = sorted(jobs, key=_place)
    for source in reversed({job.source.file: job.source for job in reversed(ordered)}.values()):
        files.file(source)
    done, total = 0, sum(job.source.nbytes for job in ordered)
    if not total:
        return
    lines = by_device(ordered)
    devices = [device for device in lines if device is not None]
    pieces: Iterable[Piece] = pieces_of(lines)
    count = sending_threads() if devices else THREADS
    if devices and slots is None:  # little, or nobody knew: slots are as large as they have to be
        pieces = list(pieces)
        largest = max((piece.extent for piece in pieces if piece.device is not None), default=1)
        count = min(count, -(-total // (SLOTS * largest)))
        slots = Slots(largest, count, first_card(devices))
    readers = _Readers(count, files, slots if devices else None)
    try:
        for nbytes in readers.given(pieces):
            done += nbytes
            if progress is not None and nbytes:
                progress(done, total)
            if done == total:
                break
    finally:
        readers.over = True  # first of all, without a call: an interrupt may come with any
        readers.end()


class _Readers:
    """A few threads that read the pieces they are given until one fails or they are told to end.

    The threads are known before they start: a pool's may be lost when an interrupt meets its start.
    """

    def __init__(self, count: int, files: OpenFiles, slots: Slots | None) -> None:
        self._files, self._slots = files, slots
        self._waiting: SimpleQueue[_Load | None] = SimpleQueue()
        self._results: SimpleQueue[int | BaseException] = SimpleQueue()
        self._lanes: dict[torch.device, Lane] = {}
        self._marks: dict[torch.device, Mark] = {}
        self.over = False
        names = (f"compile-plan-read-{number}" for number in range(count))
        self._threads = [
            threading.Thread(target=self._work, args=(number,), name=name)
            for number, name in enumerate(names)
        ]

    def given(self, pieces: Iterable[Piece]) -> Iterator[int]:
        """Give the threads pieces; yields bytes that were read meanwhile, and raises what a thread raised.

        A thread starts when there is something for it, so that the first reads before others have started. It
        never ends: who waits knows how many bytes there are.
        """
        resting = iter(self._threads)
        for load in self._loads(pieces):
            self._waiting.put(load)
            for thread in islice(resting, 1):
                thread.start()
            yield self._read(0)
            while self._waiting.qsize() > _AHEAD * len(self._threads):
                yield self._read(_PAUSE)
        for _ in self._threads:
            self._waiting.put(None)
        while True:
            yield self._read(None)

    def _loads(self, pieces: Iterable[Piece]) -> Iterator[_Load]:
        """Yield pieces as a thread takes them: small ones together, as each turn costs more than they do."""
        load: _Load = []
        nbytes = 0
        for piece in pieces:
            load.append((piece, self._mark(piece)))
            nbytes += piece.nbytes
            if nbytes >= _LOAD:
                yield load
                load, nbytes = [], 0
        if load:
            yield load

    def _mark(self, piece: Piece) -> Mark:
        """Return what copies to the piece's device come after: what this thread has asked of it so far."""
        device = piece.device
        if device is None:
            return None
        if piece.new or device not in self._marks:
            lane = self._lanes[device] = self._lanes.get(device) or lane_to(device)
            self._marks[device] = lane.mark()
        return self._marks[device]

    def _read(self, seconds: float | None) -> int:
        try:
            result = self._results.get(timeout=seconds)
        except Empty:
            return 0
        if isinstance(result, BaseException):
            raise result
        return result

    def end(self) -> None:
        """Return when no thread is left, however often the user interrupts; then the interrupt goes on."""
        interrupt: KeyboardInterrupt | None = None
        for thread in self._threads:
            while thread in threading.enumerate():
                try:  # one that is just starting cannot be joined yet; it will see that all is over
                    self._waiting.put(None)
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
                    sender = Sender(self._slots.ring(number))
                self._fill(sender)
        except BaseException as error:  # noqa: BLE001  # raised where the results are taken
            with suppress(RuntimeError):
                if sender is not None:
                    sender.settle()  # copies under way end before what they copy from and to does
            self._results.put(error)

    def _fill(self, sender: Sender | None) -> None:
        done, told = 0, time.monotonic()
        for piece, before in self._taken():
            if done and time.monotonic() - told > _TOLD_EVERY:
                self._results.put(done)
                done, told = 0, time.monotonic()
            if sender is None or piece.device is None:
                _fill(piece.parts[0], self._files)
            else:
                _send(piece, piece.device, self._files, sender, before)
            done += piece.nbytes
        if sender is not None:
            sender.settle()  # before the last piece counts as done
        if done:
            self._results.put(done)

    def _taken(self) -> Iterator[tuple[Piece, Mark]]:
        """Yield pieces until there are no more, or all is over."""
        while not self.over:
            try:
                load = self._waiting.get(timeout=_LISTENED)
            except Empty:
                continue
            if load is None:
                return
            for each in load:
                if self.over:
                    return
                yield each


def _send(piece: Piece, device: torch.device, files: OpenFiles, sender: Sender, before: Mark) -> None:
    slot, start = sender.free(), piece.parts[0].offset
    _read_together(piece, files, slot.memory[: piece.extent])
    pairs = [
        (slot.elements(part.job.dtype, part.offset - start, part.nbytes), part.room)
        for part in piece.parts
        if part.room is not None
    ]
    sender.send(device, slot, pairs, before)


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

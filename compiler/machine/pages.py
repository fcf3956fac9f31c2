"""Pages of files in memory when they are needed: brought by who uses them, and by some threads ahead of it.

The one place that calls ``madvise``: Python's own keeps the interpreter's lock while the disk works.
Elsewhere than on Linux nothing is asked for, and pages come when they are touched.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import sys
import threading
from collections import deque
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

PIECE: Final = 2 << 20
"""Bytes brought, or read into scratch, at a time. A multiple of every element size."""
Span: TypeAlias = tuple[int, int]
"""An address, and a number of bytes from there on."""
_THREADS: Final = 4
"""What keeps a disk busy. Advice to read ahead keeps it less busy (a third of the rate), and costs as much
where all is in memory already."""
_POPULATE_READ: Final = 22
"""Since Linux 5.14, as the next; older ones answer that they do not know it."""
_POPULATE_WRITE: Final = 23


@cache
def _call(name: str, third: Any) -> Callable[[int, int, Any], int] | None:  # noqa: ANN401  # a type of C
    """Return one of the system's calls; it releases the interpreter's lock."""
    if sys.platform != "linux":
        return None
    found: Any = getattr(ctypes.CDLL(None, use_errno=True), name)
    found.argtypes = [ctypes.c_void_p, ctypes.c_size_t, third]
    found.restype = ctypes.c_int
    called: Callable[[int, int, Any], int] = found
    return called


def bring(address: int, nbytes: int) -> bool:
    """Return when pages of a file are in memory, ready to be used; False if the file has lost them."""
    advise = _call("madvise", ctypes.c_int)
    if advise is None or not nbytes:
        return True
    start = address - address % mmap.PAGESIZE
    failed = advise(start, address + nbytes - start, _POPULATE_READ)
    return not failed or ctypes.get_errno() != errno.EFAULT


def populate(address: int, nbytes: int, threads: int = 1) -> None:
    """Return when memory of the process has its pages, where the system can be asked for them at once.

    It fills them with zeros, on the core of whoever asks: several threads are done sooner.
    """
    advise = _call("madvise", ctypes.c_int)
    if advise is None:
        return
    part = -(-nbytes // threads // mmap.PAGESIZE) * mmap.PAGESIZE
    spans = [(first, min(part, nbytes - first)) for first in range(0, nbytes, part)]
    others = [
        threading.Thread(target=advise, args=(address + first, size, _POPULATE_WRITE), daemon=True)
        for first, size in spans[1:]
    ]
    for thread in others:
        thread.start()
    for first, size in spans[:1]:
        advise(address + first, size, _POPULATE_WRITE)
    for thread in others:
        thread.join()


def in_memory(address: int, nbytes: int) -> bool:
    """Say whether nothing has to be read for some pages; where the system does not tell: no."""
    ask = _call("mincore", ctypes.c_char_p)
    if ask is None or not nbytes:
        return not nbytes
    start = address - address % mmap.PAGESIZE
    length = address + nbytes - start
    told = ctypes.create_string_buffer(-(-length // mmap.PAGESIZE))
    return not ask(start, length, told) and told.raw.count(1) == len(told)


class Ahead:
    """Brings pages with several threads while the one that entered it uses the first of them.

    None is left behind, and none is started for what is in memory.
    """

    def __init__(self, spans: Iterable[Span]) -> None:
        cold = [span for span in spans if not in_memory(*span)]
        self._waiting = deque(piece for span in cold for piece in _pieces(*span))
        count = min(_THREADS, sum(nbytes for _, nbytes in cold) // PIECE)
        self._threads = [
            threading.Thread(target=self._work, name="compile-plan-pages", daemon=True) for _ in range(count)
        ]

    def __enter__(self) -> None:
        """Start them."""
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        """End them, whatever is still to be brought."""
        self._waiting.clear()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while True:
            try:
                address, nbytes = self._waiting.popleft()
            except IndexError:
                return
            bring(address, nbytes)


def _pieces(address: int, nbytes: int) -> Iterable[Span]:
    return ((address + first, min(PIECE, nbytes - first)) for first in range(0, nbytes, PIECE))

"""Advice to Linux about the pages of a file: which to read ahead, which to have in memory now.

The one place that calls ``madvise``: Python's own keeps the interpreter's lock while the disk works.
Elsewhere than on Linux nothing is advised, and pages come when they are touched.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import sys
from functools import cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

REQUEST: Final = 128 << 10
"""Bytes of one request to read ahead: what Linux reads ahead on the slowest kinds of disk."""
_WILL_NEED: Final = 3
_POPULATE_READ: Final = 22
"""Since Linux 5.14; older ones answer that they do not know it."""


@cache
def _madvise() -> Callable[[int, int, int], int] | None:
    """Return the system's call; it releases the interpreter's lock."""
    if sys.platform != "linux":
        return None
    found = ctypes.CDLL(None, use_errno=True).madvise
    found.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    found.restype = ctypes.c_int
    return found


def read_ahead(address: int, nbytes: int) -> None:
    """Ask for pages of a file; returns before they are there.

    Linux serves only the first part of a large request, as much as it reads ahead by itself.
    """
    advise = _madvise()
    if advise is None:
        return
    end = address + nbytes
    for start in range(address - address % mmap.PAGESIZE, end, REQUEST):
        advise(start, min(REQUEST, end - start), _WILL_NEED)


def bring(address: int, nbytes: int) -> bool:
    """Return when pages of a file are in memory, ready to be used; False if the file has lost them."""
    advise = _madvise()
    if advise is None or not nbytes:
        return True
    start = address - address % mmap.PAGESIZE
    failed = advise(start, address + nbytes - start, _POPULATE_READ)
    return not failed or ctypes.get_errno() != errno.EFAULT

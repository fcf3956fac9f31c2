"""Host memory that streamed weights rest in: one block per unit, so that one copy brings all of it.

A block is registered with the driver of cards at its own size, in a thread, after its bytes are there:
the driver's allocator would round every tensor up to a power of two, and keep the loader waiting.
Until then, and where registering fails, copies from it are slower and as right.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

import torch

from ...ir import Diagnostic, PlanError, human_size
from ...ir.rules.loading import NO_MEMORY
from ...ir.wording import first_line

ALIGNMENT: Final = 256
_HUGE_PAGE: Final = 2 << 20
"""Blocks larger than this ask for large pages: the driver registers them one by one."""
_OK: Final = 0
CARDS: Final = "cuda"
"""The type of devices whose driver knows memory, and whose copies run on streams."""


class _Memory(mmap.mmap):
    """Anonymous memory that the driver has to forget before it goes.

    Else new memory at the same address counts as known, and cards are sent what the old had. A weak reference
    tells too late: Python unmaps the memory first, and lets other threads run meanwhile.
    """

    forget: Callable[[], object] | None = None

    def __del__(self) -> None:
        """Tell the driver; not while Python ends: the driver is gone by then, and what it knew with it."""
        if self.forget is not None and not sys.is_finalizing():
            self.forget()


class Block:
    """Bytes of host memory; lives as long as a tensor in it."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if os.name == "posix" else {}
        try:
            self._memory = _Memory(-1, max(nbytes, 1), **private)
        except (OSError, OverflowError) as error:
            message = f"the system gives no {human_size(nbytes)} of memory: {first_line(error)}"
            help_ = "free memory of the host, raise the limit of the process (`ulimit -v`), or plan for less"
            raise PlanError([Diagnostic(NO_MEMORY, message, help=help_)]) from None
        if nbytes >= _HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
            self._memory.madvise(mmap.MADV_HUGEPAGE)
        self._used = 0
        self._refused = False

    @property
    def pinned(self) -> bool:
        """Whether the driver knows the memory."""
        return self._memory.forget is not None

    def tensor(self, shape: Sequence[int], dtype: torch.dtype) -> tuple[torch.Tensor, int]:
        """Return the next tensor in it, with a storage of its own, and its first byte."""
        start = -(-self._used // ALIGNMENT) * ALIGNMENT
        count = int(torch.Size(shape).numel())
        self._used = start + count * dtype.itemsize
        if not count:
            return torch.empty(tuple(shape), dtype=dtype), start
        flat = torch.frombuffer(self._memory, dtype=dtype, count=count, offset=start)
        return flat.view(tuple(shape)), start

    def bytes(self, start: int, end: int) -> torch.Tensor:
        """Return bytes of it as a tensor."""
        return torch.frombuffer(self._memory, dtype=torch.uint8, count=end - start, offset=start)

    def view(self, start: int, end: int) -> memoryview:
        """Return bytes of it as files are read into."""
        return memoryview(self._memory)[start:end]

    @property
    def address(self) -> int:
        """Where it begins."""
        return ctypes.addressof(ctypes.c_char.from_buffer(self._memory))

    def register(self, card: torch.device) -> bool:
        """Let the driver know the memory, so that copies to any card run beside the computing; takes a while.

        A driver that refuses, or cannot be asked, is asked once: copies are slower and as right. Asked for
        the first card from a thread of its own, it would take memory there, whether or not the plan has it.
        """
        if not self.pinned and not self._refused:
            with suppress(RuntimeError):  # a card without room for what the driver keeps on it
                self._memory.forget = _known(self.address, self.nbytes, card)
            self._refused = not self.pinned
        return self.pinned

    def unregister(self) -> None:
        """Let the driver forget the memory."""
        if self._memory.forget is not None:
            self._memory.forget()
            self._memory.forget = None


def _known(address: int, nbytes: int, card: torch.device) -> Callable[[], object] | None:
    """Let the driver know memory; returns how it forgets it, None where it refuses."""
    with torch.cuda.device(card):
        runtime: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        if int(runtime.cudaHostRegister(address, nbytes, 0)) == _OK:
            return partial(_forget, runtime, address, card)
        _take_error()
        return None


def _forget(runtime: Any, address: int, card: torch.device) -> None:  # noqa: ANN401  # torch's, without types
    with torch.cuda.device(card):
        runtime.cudaHostUnregister(address)


def _take_error() -> None:
    """Take the driver's last error of this thread: the next kernel would raise it as its own."""
    with suppress(RuntimeError):
        torch.ones(1, device="cuda")


def is_card(device: torch.device) -> bool:
    """Say whether copies to a device run beside its computing."""
    return device.type == CARDS


def room_for(sizes: Sequence[int]) -> int:
    """Return the bytes of a block for tensors of some sizes."""
    return sum(-(-nbytes // ALIGNMENT) * ALIGNMENT for nbytes in sizes)

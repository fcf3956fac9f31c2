"""Pages of files are brought by threads ahead of who uses them; none is left, none is started in vain."""

from __future__ import annotations

import mmap
import os
import sys
import threading
from itertools import pairwise

import pytest
import torch
from compile_plan.compiler.machine import pages
from compile_plan.compiler.machine.pages import PIECE, Ahead, in_memory, populate

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the calls are Linux's")
NBYTES = 4 * PIECE + 4096


@pytest.fixture(name="span")
def _span(tmp_path):
    """Where a file is mapped, its pages dropped if its file system has them elsewhere too."""
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(NBYTES))
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    yield torch.frombuffer(memory, dtype=torch.uint8).data_ptr(), NBYTES
    memory.close()


def ours():
    return [thread for thread in threading.enumerate() if thread.name == "compile-plan-pages"]


def test_all_is_brought_and_no_thread_is_left(span):
    cold = not in_memory(*span)
    ahead = Ahead([span, (span[0] + 100, 0)])
    assert len(ahead._threads) == (4 if cold else 0)
    with ahead:
        for thread in ahead._threads:  # nobody else brings them
            thread.join()
        assert in_memory(*span)
    assert not ours()
    assert not Ahead([span])._threads  # all is there: no thread is started


def test_whatever_ends_the_use_ends_the_threads(span):
    with pytest.raises(KeyboardInterrupt), Ahead([span]):
        raise KeyboardInterrupt
    assert not ours()


@pytest.mark.parametrize("threads", [1, 3, 16])
@pytest.mark.parametrize("count", [1, 5, 100])
def test_every_page_is_asked_for_once_however_many_threads_do(threads, count, monkeypatch):
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(pages, "_call", lambda *_: lambda start, size, _how: asked.append((start, size)))
    populate(1 << 30, count * mmap.PAGESIZE, threads)
    assert len(asked) <= threads
    pieces = sorted(asked)
    assert sum(size for _, size in pieces) == count * mmap.PAGESIZE
    for (first, size), (start, _) in pairwise(pieces):
        assert first + size == start
        assert start % mmap.PAGESIZE == 0


def test_what_is_populated_is_there_and_can_be_written():
    with mmap.mmap(-1, 8 * PIECE) as memory:
        view = torch.frombuffer(memory, dtype=torch.uint8)
        populate(view.data_ptr(), view.nbytes, 3)
        assert int(view.count_nonzero()) == 0
        view.fill_(1)
        assert memory[-1] == 1
        del view

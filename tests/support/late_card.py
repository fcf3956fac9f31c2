"""A pretended accelerator with streams as a card has them, whose copies happen as late as they may.

A copy on a side stream happens when something waits for an event behind it: the computing, or whoever
wants to fill the memory it comes from again. So whatever is not waited for shows in the outputs. Importing
this gives the process the device, on which streaming works as on a card.
"""

from __future__ import annotations

import itertools
import threading
import time
from contextlib import contextmanager

import pretend_device
import torch
from compile_plan.compiler.loading import blocks

aten = torch.ops.aten
_ONE_AT_A_TIME = threading.RLock()
_OF_THREAD = threading.local()
_PAUSES = itertools.cycle((0.0013, 0.0001, 0.0006, 0.0019, 0.0003))


class LateStream:
    """Work in order, done when it is waited for."""

    def __init__(self, _device=None):
        self.work, self.done = [], 0

    def reach(self, count):
        with _ONE_AT_A_TIME:
            while self.done < count:
                step, self.work[self.done] = self.work[self.done], None
                self.done += 1
                step()

    def wait_event(self, event):
        self.work.append(event.synchronize)


class _Computing(LateStream):
    """What a thread computes happens at once."""

    def wait_event(self, event):
        event.synchronize()


class LateEvent:
    def __init__(self, **_options):
        self.stream, self.count = COMPUTING, 0

    def record(self, stream):
        self.stream, self.count = stream, len(stream.work)

    def synchronize(self):
        self.stream.reach(self.count)

    def query(self):
        return self.stream.done >= self.count

    def elapsed_time(self, _other):
        return 0.0


COMPUTING = _Computing()


def current(_device=None):
    return getattr(_OF_THREAD, "stream", COMPUTING)


def set_current(stream):
    _OF_THREAD.stream = stream


@contextmanager
def on(stream):
    before = current()
    set_current(stream)
    try:
        yield
    finally:
        set_current(before)


def run(func, args, kwargs, *, usual=pretend_device.run):
    """Put copies on the stream of the thread; all else happens at once."""
    stream = current()
    if func is not aten.copy_.default or isinstance(stream, _Computing):
        return usual(func, args, kwargs)
    stream.work.append(lambda: usual(func, args, kwargs))
    return args[0]


def pause():
    """Let other threads go on for a while, never as long as the last time."""
    time.sleep(next(_PAUSES))


def slowly(_address, _nbytes, _card):
    """Know any memory of the host, after a while in which other threads go on."""
    pause()
    return lambda: None


def refusing(_address, _nbytes, _card):
    """Know none."""
    pause()


pretend_device.run = run
torch.cuda.Stream, torch.cuda.Event = LateStream, LateEvent
torch.Tensor.record_stream = lambda _memory, _stream: None
torch.cuda.current_stream, torch.cuda.set_stream, torch.cuda.stream = current, set_current, on
blocks._known = slowly
blocks.CARDS = "npu"

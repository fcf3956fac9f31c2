"""Whether a call is still going on, told by the stack of this thread.

Torch does not run the hooks after a forward that a `BaseException` ends, as Ctrl-C does, so what such a
forward left behind has to be told from what an outer call has in use.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def calls_of(module: nn.Module, thread: int) -> int:
    """Return how many calls of a module a thread is in; none when the thread is over."""
    found, frame = 0, sys._current_frames().get(thread)  # noqa: SLF001
    while frame is not None:
        if frame.f_code.co_name == "_call_impl" and frame.f_locals.get("self") is module:
            found += 1
        frame = frame.f_back
    return found

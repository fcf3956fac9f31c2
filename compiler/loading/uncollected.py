"""Loading makes tens of thousands of objects at once, none of them garbage.

Python's collector looks through all of them again and again meanwhile, which takes as long as all else.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Let the collector wait until this is over, if it is at work."""
    works = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if works:
            gc.enable()

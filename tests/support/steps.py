"""Work measured in calls, which no busy machine changes; seconds would measure the machine."""

from __future__ import annotations

import sys


def counted(work):
    """Return what `work` returns, and how many functions, built-in ones too, were called in this thread."""
    calls = 0

    def count(_frame, event, _argument):
        nonlocal calls
        calls += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        result = work()
    finally:
        sys.setprofile(before)
    return result, calls

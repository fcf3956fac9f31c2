"""Writes down what a card's allocator is asked for, in order: what a simulator of it is compared with."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

_ENTRIES = 400_000
"""More than any case of the benchmarks asks for."""


@contextmanager
def written_down(path: Path | None, **facts: Any) -> Iterator[None]:
    """Write what happens meanwhile: rows of action, address, bytes, stream."""
    if path is None or not torch.cuda.is_available():  # nobody asks, or nobody can be asked
        yield
        return
    history = torch.cuda.memory._record_memory_history  # noqa: SLF001  torch's own way to be asked
    history(context=None, stacks="python", max_entries=_ENTRIES)
    try:
        yield
    finally:
        rows = torch.cuda.memory._snapshot()["device_traces"][0]  # noqa: SLF001
        history(None)
        events = [[row["action"], row.get("addr", 0), row["size"], row.get("stream", 0)] for row in rows]
        path.parent.mkdir(parents=True, exist_ok=True)
        with gzip.open(path, "wt") as file:
            json.dump({**facts, "events": events}, file)

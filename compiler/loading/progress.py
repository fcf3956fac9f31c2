"""A progress bar on the terminal while weights are read; nothing anywhere else."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias

from .reading import Progress

Wish: TypeAlias = Progress | bool | None


@contextmanager
def progress_shown(wish: Wish) -> Iterator[Progress | None]:
    """Yield what is called with bytes done and in all.

    ``wish`` is a function of the caller's, True or False, or None: a bar if stderr is a terminal.
    """
    if callable(wish):
        yield wish
        return
    if not (sys.stderr.isatty() if wish is None else wish):
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    columns = ("loading", BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("loading", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)

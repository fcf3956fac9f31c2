"""A thread that waits, so that the one that computes can be interrupted and hears what happens meanwhile."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable
from typing import Any, Final, TypeAlias, TypeVar

Result = TypeVar("Result")
TICK: Final = 0.2
"""Seconds between two looks at what happens meanwhile."""
_Job: TypeAlias = tuple[Callable[[], Any], list[Any], threading.Event]


class Waiter:
    """The thread of one process that waits for others."""

    def __init__(self) -> None:
        self._asked: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._done = threading.Event()
        """Of what was asked last."""
        self._done.set()
        threading.Thread(target=_serve, args=(self._asked,), name="compile-plan-wire", daemon=True).start()
        weakref.finalize(self, self._asked.put, None)  # the thread ends with what asks it

    def run(
        self,
        work: Callable[[], Result],
        ended: Callable[[], Exception | None],
        failed: Callable[[Exception], Exception],
    ) -> Result:
        """Return what the work returns; raise what `ended` finds meanwhile, or `failed` when it breaks."""
        box: list[Any] = []
        done = self._done = threading.Event()
        self._asked.put((work, box, done))
        while not done.wait(TICK):
            error = ended()
            if error is not None:
                raise error
        if isinstance(box[0], Exception):
            raise failed(box[0]) from None
        result: Result = box[0]
        return result

    def settle(self) -> None:
        """Wait a moment for what was let go of: a thread inside torch when Python ends would abort it."""
        self._done.wait(5 * TICK)


def _serve(asked: queue.SimpleQueue[_Job | None]) -> None:
    while (job := asked.get()) is not None:
        work, box, done = job
        try:
            box.append(work())
        except Exception as error:  # noqa: BLE001  # told by the thread that computes
            box.append(error)
        done.set()
        del job, work, box, done

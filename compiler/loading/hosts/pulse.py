"""Whether the processes of the other hosts are alive, told through the rendezvous store.

Each process counts up a number of its own there once a second. One whose number stands still is gone:
a closed connection tells only its direct neighbours so, and a host without power tells nobody. Who
notices first writes the name down, so that all hosts name the same one. A store that does not answer is
as silent as the host it is on, which is that of rank 0.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any, Final

PERIOD: Final = 1.0
PATIENCE: Final = 6.0
"""Seconds without a beat after which a host is gone; with the period it stays under ten."""
_PREFIX: Final = "compile_plan/pulse"
_BLAMED: Final = f"{_PREFIX}/lost"


class Pulse:
    """The beats of one process, and what it hears of the others."""

    def __init__(self, store: Any, rank: int, size: int) -> None:  # noqa: ANN401  # a store of torch's
        self._store, self._rank = store, rank
        self._others = tuple(other for other in range(size) if other != rank)
        self._heard: dict[int, tuple[int, float]] = {}
        self._lost: int | None = None
        self._answered = time.monotonic()
        """When the store last answered."""
        self._suspect: int | None = None
        self._wake = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._beat, name="compile-plan-pulse", daemon=True)
        self._thread.start()

    def lost(self) -> int | None:
        """Return the rank of a process that is gone; None as far as is known."""
        silent = time.monotonic() - self._answered
        if self._lost is None and self._rank and self._thread.is_alive() and silent > PATIENCE + PERIOD:
            self._lost = 0
        return self._lost

    def found_out(self) -> int | None:
        """Return the rank of the process that is gone when it is known; None if all of them are there."""
        end = time.monotonic() + PATIENCE + 2 * PERIOD
        while self.lost() is None and self._thread.is_alive() and time.monotonic() < end:
            time.sleep(PERIOD / 100)
        return self._lost

    def blame(self, rank: int) -> int:
        """Say that a process is gone, and return the one that was said to be gone first."""
        self._suspect = rank
        self._wake.set()
        found = self.found_out()
        return rank if found is None else found

    def end(self) -> None:
        """Beat no more; a thread that is inside the store when Python ends would end the process badly."""
        self._ended = True
        self._wake.set()
        self._thread.join(PERIOD)

    def _beat(self) -> None:
        count = 0
        while self._lost is None and not self._ended:
            self._wake.clear()
            count += 1
            try:
                self._store.set(f"{_PREFIX}/{self._rank}", str(count))
                self._listen(self._others)
            except Exception:  # noqa: BLE001  # torch raises several kinds when the other end is gone
                self._lost = 0 if self._rank else self._suspect  # rank 0 is where the store is
                return
            self._answered = time.monotonic()
            self._wake.wait(PERIOD)

    def _listen(self, others: Sequence[int]) -> None:
        if self._store.check([_BLAMED]):
            self._lost = int(self._store.get(_BLAMED))
        now = time.monotonic()
        for other in others:
            key = f"{_PREFIX}/{other}"
            if not self._store.check([key]):
                continue  # it has not begun
            beat = int(self._store.get(key))
            last = self._heard.get(other)
            if last is None or last[0] != beat:
                self._heard[other] = (beat, now)
            elif now - last[1] > PATIENCE and self._suspect is None:
                self._suspect = other
        if self._lost is None and self._suspect is not None:
            self._lost = int(self._store.compare_set(_BLAMED, "", str(self._suspect)))

"""Whether the processes of the other hosts are alive and in step, told through the rendezvous store.

Each process counts up a number of its own there twice a second. One whose number stands still is gone:
a closed connection tells only its direct neighbours so, and a host without power tells nobody. Who
notices first writes the name down, so that all hosts name the same one. A process in which a call failed
writes that down instead, before it lets go of its connections. A store that does not answer is as silent
as the host it is on, which is that of rank 0.
"""

from __future__ import annotations

import threading
import time
from typing import Any, Final

PERIOD: Final = 0.5
PATIENCE: Final = 6.0
"""Seconds without a beat after which a host is gone."""
KNOWN: Final = PATIENCE + 3 * PERIOD
"""Seconds in which all hosts know of one that is gone: its last beat is heard, its silence is noticed and
its name is read up to a period late."""
_PREFIX: Final = "compile_plan/pulse"
_BLAMED: Final = f"{_PREFIX}/lost"


class Pulse:
    """The beats of one process, and what it hears of the others."""

    def __init__(self, store: Any, rank: int, size: int) -> None:  # noqa: ANN401  # a store of torch's
        self._store, self._rank = store, rank
        self._silent = [f"{_PREFIX}/{other}" for other in range(size) if other != rank]
        """The keys of those that have not begun."""
        self._heard: dict[str, tuple[int, float]] = {}
        self._lost: int | None = None
        self._suspect: int | None = None
        self._answered = time.monotonic()
        """When the store last answered."""
        self._times = 0
        """How often the hosts began anew."""
        self._words: str | None = None
        """Why a call failed here, until it is told."""
        self._failure: tuple[int, str] | None = None
        self._wake, self._told = threading.Event(), threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._beat, name="compile-plan-pulse", daemon=True)
        self._thread.start()

    def lost(self) -> int | None:
        """Return the rank of a process that is gone; None as far as is known."""
        silent = time.monotonic() - self._answered
        if self._lost is None and self._rank and self._thread.is_alive() and silent > PATIENCE + PERIOD:
            self._lost = 0
        return self._lost

    def failure(self) -> tuple[int, str] | None:
        """Return the rank in which a call failed, and why; None as far as is known."""
        return self._failure

    def find_out(self) -> None:
        """Return when it is known who is gone or in which process a call failed, or that none is."""
        end = time.monotonic() + KNOWN
        self._wake.set()
        while not self._knows() and self._thread.is_alive() and time.monotonic() < end:
            time.sleep(PERIOD / 100)

    def suspect(self, rank: int) -> None:
        """Say that a process let go of its connection, and return when it is known why."""
        self._suspect = rank
        self.find_out()

    def tell(self, words: str) -> None:
        """Tell the others that a call failed here, and return when they can know it."""
        self._words = words
        self._wake.set()
        if self._thread.is_alive():
            self._told.wait(KNOWN)

    def renew(self) -> None:
        """Begin anew after a call that failed."""
        self._times += 1
        self._told.clear()
        self._words = self._failure = self._suspect = None

    def end(self) -> None:
        """Beat no more; a thread that is inside the store when Python ends would end the process badly."""
        self._ended = True
        self._wake.set()
        self._thread.join(2 * PERIOD)

    def _knows(self) -> bool:
        return self.lost() is not None or self._failure is not None

    def _beat(self) -> None:
        count = 0
        while self._lost is None and not self._ended:
            self._wake.clear()
            count += 1
            try:
                self._store.set(f"{_PREFIX}/{self._rank}", str(count))
                self._learn_of_failures()
                self._listen()
            except Exception:  # noqa: BLE001  # torch raises several kinds when the other end is gone
                self._lost = 0 if self._rank else self._suspect  # rank 0 is where the store is
                return
            self._answered = time.monotonic()
            self._wake.wait(PERIOD)

    def _learn_of_failures(self) -> None:
        """Read in which process a call failed, or write that it was this one if none did before."""
        times, words = self._times, self._words
        key = f"{_PREFIX}/failed/{times}"
        if words is not None:
            found = self._store.compare_set(key, "", f"{self._rank} {words}")
        elif self._failure is None and self._store.check([key]):
            found = self._store.get(key)
        else:
            return
        rank, _, why = found.decode().partition(" ")
        if times == self._times:  # the hosts may have begun anew meanwhile
            self._failure = int(rank), why
            self._words = None
            self._told.set()

    def _listen(self) -> None:
        """Read the beats of the others, and who is said to be gone; say so of one that is."""
        if self._store.check([_BLAMED]):
            self._lost = int(self._store.get(_BLAMED))
        now = time.monotonic()
        for key in [key for key in self._silent if self._store.check([key])]:
            self._silent.remove(key)
            self._heard[key] = -1, now
        for key, value in zip(self._heard, self._store.multi_get(list(self._heard)), strict=True):
            beat, since = int(value), self._heard[key][1]
            if self._heard[key][0] != beat:
                self._heard[key] = beat, now
            elif now - since > PATIENCE and self._suspect is None:
                self._suspect = int(key.rpartition("/")[2])
        if self._lost is None and self._suspect is not None and self._failure is None:
            self._lost = int(self._store.compare_set(_BLAMED, "", str(self._suspect)))

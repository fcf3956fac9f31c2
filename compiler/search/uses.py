"""What a device needs beside weights: caches add up, peaks and buffers are shared, phases take turns."""

from __future__ import annotations

from typing import Protocol


class Needs(Protocol):
    """What is placed, as far as it needs more than its weights; all of it in bytes."""

    @property
    def phase(self) -> int:
        """The phase in which it needs it."""
        ...

    @property
    def demand(self) -> int:
        """What adds up."""
        ...

    @property
    def peak(self) -> int:
        """What a device needs the largest of."""
        ...

    @property
    def stream(self) -> int:
        """What its streaming buffer holds."""
        ...


class InUse:
    """What atoms need of one device beside their weights, beyond what pins need there, by phase."""

    __slots__ = ("_base", "_buffers", "_demands", "_peaks")

    def __init__(self, phases: int, peak: int, buffer: int) -> None:
        """Start with what pins need in every phase; the last of each list stands for all the time."""
        count = phases + 1
        self._demands, self._peaks, self._buffers = [0] * count, [peak] * count, [buffer] * count
        self._base = peak + buffer

    def take(self, atom: Needs, *, streamed: bool, count: int = 1) -> None:
        """Run so many like this atom here."""
        phase = atom.phase
        self._demands[phase] += count * atom.demand
        self._peaks[phase] = max(self._peaks[phase], atom.peak)
        if streamed and atom.stream > self._buffers[phase]:
            self._buffers[phase] = atom.stream

    def give_back(self, atom: Needs) -> None:
        """Run an atom here no more; its peak and its buffer stay: others may need them."""
        self._demands[atom.phase] -= atom.demand

    def copy(self) -> InUse:
        """Return one that may change apart."""
        found = InUse(0, 0, 0)
        found._demands, found._peaks = list(self._demands), list(self._peaks)
        found._buffers, found._base = list(self._buffers), self._base
        return found

    def nbytes(self) -> int:
        """Return what it is in the phase in which it is most."""
        demands, peaks, buffers = self._demands, self._peaks, self._buffers
        last = len(demands) - 1
        always = demands[-1] + peaks[-1] + buffers[-1]
        if not last:
            return always - self._base
        rest = (
            demands[-1] + demands[phase] + max(peaks[-1], peaks[phase]) + max(buffers[-1], buffers[phase])
            for phase in range(last)
        )
        return max(rest) - self._base

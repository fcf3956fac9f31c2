"""Torch's caching allocator by its published rules: what tests compare plans and estimates with.

It shares nothing with what the compiler plays. What it reserves for forwards of 14 models of
`benchmarks/card_ledger.py` is what an H100 reserved (torch 2.11) to 2 MiB for 29 of 42, to 14 MiB for all.
"""

from __future__ import annotations

from dataclasses import dataclass, field

MIB = 1 << 20


class OutOfMemory(Exception):  # noqa: N818  as torch calls it
    """No more may be reserved."""


@dataclass(eq=False)
class Part:
    """Bytes of a segment; parts of one segment follow each other without a gap."""

    start: int
    nbytes: int
    segment: int
    taken: bool = False
    asked: int = 0


@dataclass
class Allocator:
    """Keeps all parts in one list by address: slow and plain."""

    limit: int | None = None
    descend: bool = False
    reserved: int = 0
    highest: int = 0
    parts: list[Part] = field(default_factory=list)
    segments: dict[int, tuple[int, bool]] = field(default_factory=dict)
    """By address: bytes, and whether it is for small requests."""
    handed: int = 0
    most: int = 0
    """Bytes of parts that are taken, now and at most: what torch calls allocated."""
    asked: int = 0
    asked_most: int = 0
    _used: int = 0

    def malloc(self, nbytes: int) -> Part:
        size = max(512, -(-nbytes // 512) * 512)
        small = size <= MIB
        free = [each for each in self.parts if not each.taken and self.segments[each.segment][1] is small]
        fits = [each for each in free if each.nbytes >= size]
        part = (
            min(fits, key=lambda each: (each.nbytes, each.start)) if fits else self._grow(size, small=small)
        )
        rest = part.nbytes - size
        if rest >= 512 if small else rest > MIB:
            self.parts.insert(self.parts.index(part) + 1, Part(part.start + size, rest, part.segment))
            part.nbytes = size
        part.taken, part.asked = True, size
        self._count(part.nbytes, size)
        return part

    def _count(self, handed: int, asked: int) -> None:
        self.handed, self.asked = self.handed + handed, self.asked + asked
        self.most, self.asked_most = max(self.most, self.handed), max(self.asked_most, self.asked)

    def free(self, part: Part) -> None:
        part.taken = False
        self._count(-part.nbytes, -part.asked)
        at = self.parts.index(part)
        for other in self.parts[at + 1 : at + 2] + self.parts[max(0, at - 1) : at]:
            if not other.taken and other.segment == part.segment:
                part.start, part.nbytes = min(part.start, other.start), part.nbytes + other.nbytes
                self.parts.remove(other)

    def empty_cache(self) -> None:
        for part in [each for each in self.parts if not each.taken]:
            if part.nbytes == self.segments[part.segment][0]:
                self.parts.remove(part)
                self.reserved -= self.segments.pop(part.segment)[0]

    def _grow(self, size: int, *, small: bool) -> Part:
        own = -(-size // (2 * MIB)) * 2 * MIB
        nbytes = 2 * MIB if small else 20 * MIB if size < 10 * MIB else own
        if self.limit is not None and self.reserved + nbytes > self.limit:
            self.empty_cache()
            if self.reserved + nbytes > self.limit:
                raise OutOfMemory
        self.reserved += nbytes
        self.highest = max(self.highest, self.reserved)
        self._used += nbytes
        start = -self._used if self.descend else self._used - nbytes
        self.segments[start] = nbytes, small
        part = Part(start, nbytes, start)
        self.parts.insert(sum(each.start < start for each in self.parts), part)
        return part

"""What a stream counts while it works: calls, bytes, waits, and rows found or missed."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(slots=True)
class Tally:
    """Of one site since the last report."""

    calls: int = 0
    ahead: int = 0
    """Calls that found everything under way already."""
    nbytes: int = 0
    """Copied to where it runs."""
    seconds: float = 0.0
    """The thread that computes waited for bytes."""
    hits: int = 0
    """Rows that were there already."""
    misses: int = 0
    """Rows that had to be brought."""

    def take(self) -> Tally:
        """Return what was counted, and start again."""
        taken = Tally(**{part.name: getattr(self, part.name) for part in fields(self)})
        for part in fields(self):
            setattr(self, part.name, part.default)
        return taken

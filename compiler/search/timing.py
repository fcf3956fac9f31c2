"""The seconds of a call and of a workload: what adds up, what goes on beside it, what limits them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ...ir import Workload

HOP_SHARE: Final = 1 / 500
"""The most of a call that the latency of one hop counts for in a choice: models so small that latencies
are all there is are placed as larger ones of their shape would be."""
LINK: Final = "link"
READING: Final = "reading"
BESIDE: Final = (LINK, READING)
"""What goes on while something computes."""


def counted_calls(work: Workload) -> tuple[tuple[int, int], ...]:
    """Return the calls of a workload, the prompt's and a token's: tokens of one, and how many there are."""
    if work.kind != "generate":
        return (work.rows * work.tokens, 1), (0, 0)
    return (work.rows * work.prompt, 1 if work.prompt else 0), (work.rows, work.tokens)


@dataclass(frozen=True, slots=True)
class Waits:
    """The seconds of one call: what adds up, and what goes on beside it."""

    parts: tuple[tuple[str, float], ...]
    waits: float
    """Seconds of what waits for each other, hops aside."""
    hopping: float
    hops: int = 0
    latencies: float = 0.0
    """Seconds of the hops before anything arrives; the rest of them is what they carry."""
    stalled: float = 0.0
    """Seconds of waiting for what is streamed beyond those its busiest link or disk explains."""

    @property
    def beside(self) -> float:
        """Return the seconds of the busiest link or disk."""
        return max((s for what, s in self.parts if what.startswith(BESIDE)), default=0.0)

    @property
    def seconds(self) -> float:
        """Return how long the call takes."""
        return max(self.waits + self.hopping, self.beside) + self.stalled

    @property
    def priced(self) -> float:
        """Return the seconds a choice goes by: the latency of a hop counts for a share of them at most."""
        carrying = self.hopping - self.latencies
        latencies = min(self.latencies, self.hops * HOP_SHARE * max(self.waits, self.beside))
        return max(self.waits + carrying + latencies, self.beside) + self.stalled

    @property
    def limit(self) -> str:
        """Name what the call spends most of its time on."""
        beside = self.beside >= self.waits + self.hopping
        found = {what: s for what, s in self.parts if what.startswith(BESIDE) == beside}
        if not beside:
            found["hops"] = self.hopping
        return max(found, key=lambda what: (found[what], what), default="nothing")


@dataclass(frozen=True, slots=True)
class Timing:
    """The seconds of a workload: of reading the prompt once, of each token written."""

    prompt: Waits
    token: Waits
    work: Workload

    @property
    def seconds(self) -> float:
        """Return the seconds of the whole workload."""
        return self._weighted(self.prompt.seconds, self.token.seconds)

    @property
    def priced(self) -> float:
        """Return the seconds by which placements are compared."""
        return self._weighted(self.prompt.priced, self.token.priced)

    @property
    def stalled(self) -> float:
        """Return the seconds of waiting for what could have been brought while something computed."""
        return self._weighted(self.prompt.stalled, self.token.stalled)

    def _weighted(self, prompt: float, token: float) -> float:
        (_, prompts), (_, tokens) = counted_calls(self.work)
        return prompts * prompt + tokens * token

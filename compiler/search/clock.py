"""The clock of a search: it may only end it. What it ends counts for nothing and is remembered."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic

from .highs import NODE_LIMIT, Answer, Program, solve


@dataclass(slots=True)
class Clock:
    """Solves programs for as long as there is time; the one value of the search that changes."""

    seconds: float
    started: float = field(default_factory=monotonic)
    ended: bool = False
    """Whether a program was left unsolved because of the time."""
    undecided: bool = False
    """Whether a program met its limit of nodes with neither a solution nor a proof that there is none."""

    def solve(self, program: Program, *, gap: float, nodes: int = NODE_LIMIT) -> Answer:
        """Solve a program in the time that is left; without time there is no answer."""
        left = self.seconds - (monotonic() - self.started)
        answer = solve(program, seconds=left, nodes=nodes, gap=gap)
        self.ended |= answer.status == "clock"
        self.undecided |= answer.status == "limit" and not answer.values
        return answer

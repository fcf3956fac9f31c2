"""What the search is asked for, and what it found."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

from ...ir import Workload
from .atoms import PlanProblem
from .clock import Clock
from .problem import Place, Problem


@dataclass(frozen=True, slots=True)
class Wish:
    """What the search is asked for."""

    objective: str | None = None
    offload: str = "auto"
    work: Workload = field(default_factory=Workload)
    clock: Clock = field(default_factory=lambda: Clock(inf))
    finer: tuple[PlanProblem, ...] = ()
    """The same plan with what may be visited apart from its layers, if anything may."""

    @property
    def timed(self) -> bool:
        """Say whether seconds decide what is done with what does not fit."""
        return self.objective in {None, "latency"}

    @property
    def kept_aim(self) -> str:
        """Return the objective of a placement that keeps everything on accelerators."""
        return "fill" if self.objective is None or self.objective == "accelerator-bytes" else self.objective

    @property
    def policy(self) -> str:
        """Return what the rest may be put to, as the integer programs know it."""
        return "any" if self.offload == "auto" else self.offload


@dataclass(frozen=True, slots=True)
class Found:
    """A placement of a model's atoms, what it is worth, and what was proved."""

    model: PlanProblem
    places: list[Place]
    objective: str
    value: float
    bound: float
    status: str
    """As `Outcome.status`; ``kept`` is the placement the plan came with."""
    notes: tuple[str, ...] = ()
    beaten: tuple[str, Found] | None = None
    """What the best simple placement beside this one does with the rest, and that placement."""

    @property
    def spilled(self) -> int:
        """Bytes of free atoms that are not stored on an accelerator."""
        return spilled_bytes(self.model.problem, self.places)

    @property
    def computed(self) -> int:
        """Bytes of free atoms that are computed off the accelerators."""
        mains = set(self.model.problem.accelerators)
        pairs = zip(self.model.problem.atoms, self.places, strict=True)
        return sum(atom.weight for atom, place in pairs if place.run not in mains)


def spilled_bytes(problem: Problem, places: list[Place]) -> int:
    """Return the bytes stored off the accelerators."""
    mains = set(problem.accelerators)
    pairs = zip(problem.atoms, places, strict=True)
    return sum(atom.weight for atom, place in pairs if place.store not in mains)

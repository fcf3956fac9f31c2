"""What spills, where the busiest device decides: hosts that compute their share while the cards work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from .atoms import PlanProblem
from .found import Found, Wish
from .objective import throughput
from .pipelining import least_busy, shared_out
from .problem import is_legal


def with_least_busy(simple: Iterable[Found], models: Sequence[PlanProblem], wish: Wish) -> Found:
    """Return the placement whose busiest device has the least to do, and what none can beat.

    ``simple`` are placements that stream or compute the rest; ``models`` are shared out beside them.
    """
    computing = wish.offload in {"auto", "compute"}

    def valued(found: Found) -> Found:
        problem = found.model.problem
        value = throughput(problem, found.places, wish.work)
        bound = min(value, least_busy(problem, wish.work, computing=computing))
        status = "optimal" if value == bound else "unproven"
        return replace(found, objective="throughput", value=value, bound=bound, status=status)

    shared = _shared_with_hosts(models, wish) if computing else ()
    return min(map(valued, (*simple, *shared)), key=lambda found: found.value)


def _shared_with_hosts(models: Sequence[PlanProblem], wish: Wish) -> Iterator[Found]:
    """Yield placements in which all devices compute at a time, the hosts among them."""
    for model in models:
        for places in shared_out(model.problem, wish.work, wish.clock, computing=True):
            if is_legal(model.problem, places):
                yield Found(model, places, "throughput", 0.0, 0.0, "unproven")

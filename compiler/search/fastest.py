"""The quickest placement of a model that does not fit: who stays, who travels, who computes on the host.

The simple things come first: keep the most bytes or the first layers and stream or compute the rest, or
keep what is read most and compute the rest. An integer program finds how many of each kind to treat how
for the least predicted seconds, with whole layers and with their parts; it knows nothing of hops, so every
candidate is timed as a whole before it is believed. What is not clearly quicker than the best simple thing
is not kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Final, TypeAlias

from ...ir import Workload
from .aims import Aimed, best_counts
from .arrange import arrange, bring_closer
from .atoms import PlanProblem
from .costs import Costs, predict, timing_of
from .firstlayers import first_in_order
from .formulate import easings
from .found import Found, Wish
from .hiding import hidden
from .neighbours import with_neighbours
from .polish import polished
from .problem import Place, Problem, count_hops, is_legal
from .readfirst import most_read_first
from .rowwise import by_stacks, with_caches
from .timing import Timing, counted_calls

PAYS: Final = 0.05
"""What is not simple must be predicted this much quicker than the best simple placement."""
REFINES: Final = 0.05
"""What is finer must be this much quicker than what is coarser: it has more lines and more hops."""
PROVEN: Final = 0.005
"""Distance from the bound, relative to it, at which seconds count as the least there are."""
_PATIENCE: Final = (0.0, 0.5)
"""Shares of a layer to wait for what travels: none where links have time, up to half of one where not."""
_Limit: TypeAlias = tuple[int, float]
"""Bytes computed against the policy, and seconds: what a candidate must be below."""
_MIXTURE: Final = "mixture"
NAMES: Final = {
    "stream": "streaming the rest",
    "compute": "computing the rest on the host",
    "read": "computing on the host what is read least",
}


@dataclass(frozen=True, slots=True)
class _Timed:
    """A candidate with what it is called and how long it takes."""

    way: str
    found: Found
    timing: Timing
    against: int = 0
    """Bytes that are computed on the host although they were to be streamed."""

    @property
    def priced(self) -> float:
        return self.timing.priced


def fastest(
    models: Sequence[PlanProblem], simple: Mapping[str, Found], wish: Wish, alone: Mapping[str, Found]
) -> Found:
    """Return the placement with the least predicted seconds, its bound and the simple thing it beat.

    ``models`` are the same plan in ever finer grains; ``simple`` are placements by what they do, ``alone``
    those where nothing else is done.
    """
    grains = _distinct(models)
    by_hand = (*simple.items(), *_by_reading(grains, wish), *_in_order(grains[0], wish))
    ways = [_timed(way, found, wish) for way, found in by_hand]
    best = min(ways, key=lambda each: (each.against, each.priced))
    pays = best.against, best.priced * (1 - PAYS)
    finer = (_timed(way, found, wish) for model in grains[1:] for way, found in _in_order(model, wish))
    best, limit = _quicker(finer, best, pays)
    best, limit, bound = _by_programs(grains, wish.policy, wish, best, limit)
    if wish.offload == "auto" and bound < limit[1]:
        best = _narrower(grains, alone, wish, best, min(pays, (0, best.priced)))
    whole = replace(best.found.model, problem=by_stacks(best.found.model.problem))
    stacked = _timed(best.way, replace(best.found, model=whole), wish)
    if stacked.priced < best.priced * (1 - PAYS):
        best = stacked
    best = _with_caches(best, wish)
    others = (each for each in ways if each.way != best.way and each.found.places != best.found.places)
    return _concluded(best, min(others, key=lambda each: each.priced, default=None), bound)


def _quicker(tried: Iterable[_Timed], best: _Timed, limit: _Limit) -> tuple[_Timed, _Limit]:
    """Return the best after some finer candidates, each of which must be below the limit, and that limit."""
    for each in tried:
        if (each.against, each.priced) < limit:
            best, limit = each, (each.against, each.priced * (1 - REFINES))
    return best, limit


def _by_programs(
    grains: Sequence[PlanProblem], policy: str, wish: Wish, best: _Timed, limit: _Limit
) -> tuple[_Timed, _Limit, float]:
    """Return the best after the counts of integer programs, its limit, and what nothing finest can beat."""
    bound = 0.0
    for model in grains:
        bounds = list[float]()
        for each in _with_and_without_rows(model, policy):
            told = best.priced * (1 - PROVEN) if model is grains[-1] else limit[1]
            below = min(told, max(limit[1], min(bounds, default=inf)))
            aimed = _aimed(each.problem, wish, policy, inf if best.against else below)
            bounds.append(0.0 if aimed is None else aimed.bound)
            best, limit = _quicker(_mixtures(each, aimed, wish), best, limit)
        bound = min(bounds)
    return best, limit, bound


def _narrower(
    grains: Sequence[PlanProblem], alone: Mapping[str, Found], wish: Wish, best: _Timed, limit: _Limit
) -> _Timed:
    """Return the best after what is found where all may be streamed only, and where all may be computed only.

    The programs know nothing of changes of device: the best counts of all may turn out to need many.
    """
    for way, found in alone.items():
        best, limit = _quicker([_timed(_MIXTURE, found, wish)], best, limit)
        best, limit, _ = _by_programs(grains, way, wish, best, limit)
    return best


def _with_caches(best: _Timed, wish: Wish) -> _Timed:
    """Return a placement with rows kept on its accelerators, where that is quicker by enough."""
    model = best.found.model
    problem = with_caches(model.problem, best.found.places)
    if problem.caches == model.problem.caches:
        return best
    cached = _timed(best.way, replace(best.found, model=replace(model, problem=problem)), wish)
    return cached if cached.priced < best.priced * (1 - PAYS) else best


def _aimed(problem: Problem, wish: Wish, policy: str, below: float) -> Aimed | None:
    """Return the best counts under the first meaning of a policy that admits any below a limit."""
    for easing in easings(policy):
        aimed = best_counts(problem, "latency", wish.work, easing, wish.clock, below)
        if aimed is not None:
            return aimed
    return None


def _concluded(best: _Timed, other: _Timed | None, bound: float) -> Found:
    seconds = best.timing.seconds
    bound = min(bound, seconds)
    status = "optimal" if seconds - bound <= PROVEN * seconds else "unproven"
    beaten = None if other is None else (NAMES[other.way], other.found)
    return replace(best.found, objective="latency", value=seconds, bound=bound, status=status, beaten=beaten)


def _distinct(models: Sequence[PlanProblem]) -> Sequence[PlanProblem]:
    return [m for i, m in enumerate(models) if i == 0 or m.grains != models[i - 1].grains]


def predicted(found: Found, wish: Wish) -> Timing:
    """Return the predicted seconds of a placement."""
    return predict(found.model.problem, found.places, wish.work)


def _timed(way: str, found: Found, wish: Wish) -> _Timed:
    """Return a candidate with its time, in an order in which less is waited for where that pays."""
    mixed, against = way == _MIXTURE, found.computed if wish.offload == "stream" else 0
    timed = _Timed(way, found, predicted(found, wish), against)
    if timed.timing.stalled <= (PROVEN if mixed else PAYS) * timed.priced:
        return timed
    found = replace(found, places=_in_time(found, wish, mixed=mixed))
    tried = replace(timed, found=found, timing=predicted(found, wish))
    return tried if tried.priced < timed.priced * (1 if mixed else 1 - PAYS) else timed


def _in_time(found: Found, wish: Wish, *, mixed: bool) -> list[Place]:
    """Return the places of a candidate in the order in which the least is waited for what travels."""
    problem, costs = found.model.problem, Costs(found.model.problem)
    calls = [tokens for tokens, _ in counted_calls(wish.work) if tokens]
    tried = [hidden(costs, found.places, tokens, each) for tokens in calls for each in _PATIENCE]
    legal = [each for each in (found.places, *tried) if is_legal(problem, each)]
    best = min(legal, key=lambda each: timing_of(costs, each, wish.work).priced, default=found.places)
    return polished(costs, best, wish.work) if mixed and wish.offload == "auto" else best


def _by_reading(grains: Sequence[PlanProblem], wish: Wish) -> Iterator[tuple[str, Found]]:
    """Yield what people do by hand, with whole layers and with parts, where computing is allowed."""
    if wish.offload not in {"auto", "compute"}:
        return
    for model in grains:
        for places in most_read_first(model.problem, wish.work):
            yield "read", _found(model, filled_in_order(model.problem, places, wish.work))


def _in_order(model: PlanProblem, wish: Wish) -> Iterator[tuple[str, Found]]:
    """Yield the first layers on accelerators, the rest done in one way that is allowed."""
    for way, places in first_in_order(model.problem, wish.work):
        if wish.offload in {"auto", way}:
            yield way, _found(model, places)


def _found(model: PlanProblem, places: list[Place]) -> Found:
    return Found(model, places, "latency", 0.0, 0.0, "unproven")


def _with_and_without_rows(model: PlanProblem, policy: str) -> Iterator[PlanProblem]:
    """Yield a model in which rows travel alone, and one in which whole stacks do while others compute."""
    yield model
    weights = [atom.weight for atom in model.problem.atoms if atom.rows and policy != "compute"]
    if sum(weights) > REFINES * model.problem.total:  # tables alone never pay by the stack
        yield replace(model, problem=by_stacks(model.problem))


def _mixtures(model: PlanProblem, aimed: Aimed | None, wish: Wish) -> Iterator[_Timed]:
    """Yield the legal placement with the counts aimed at, if there is one."""
    if aimed is None or aimed.counts is None:
        return
    places = bring_closer(model.problem, arrange(model.problem, aimed.counts, by_run=False))
    if is_legal(model.problem, places):
        places = with_neighbours(model.problem, filled_in_order(model.problem, places, wish.work))
        yield _timed(_MIXTURE, _found(model, places), wish)


def filled_in_order(problem: Problem, places: list[Place], work: Workload) -> list[Place]:
    """Return a placement with the same parts on accelerators, these filled in order, if that hops less.

    What would travel over one link instead of several may take longer: then it stays as it was.
    """
    mains, rooms = problem.accelerators, _rooms(problem)
    tried, cursor, used = list[Place](), 0, dict.fromkeys(mains, 0)
    for atom, place in zip(problem.atoms, places, strict=True):
        if place.run not in mains:
            tried.append(place)
            continue
        need = atom.demand + (0 if place.streamed else atom.weight)
        while cursor + 1 < len(mains) and used[mains[cursor]] + need > rooms[cursor]:
            cursor += 1
        used[mains[cursor]] += need
        tried.append(Place(place.store if place.streamed else mains[cursor], mains[cursor]))
    if count_hops(problem, tried) >= count_hops(problem, places) or not is_legal(problem, tried):
        return places
    before, after = (predict(problem, each, work).priced for each in (places, tried))
    return tried if after <= before else places


def _rooms(problem: Problem) -> list[int]:
    """Return what each accelerator has for weights beside the largest activations and its largest buffer."""
    peak = max((atom.peak for atom in problem.atoms), default=0)
    known = problem.peaks or (0,) * len(problem.devices)
    return [problem.rooms[device] - max(0, peak - known[device]) for device in problem.accelerators]

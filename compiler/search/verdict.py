"""The simple placement against the one found: which is kept, and what the plan says about it."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

from ...ir import ModuleTree, Outcome, Plan, Reason, is_accelerator, unit_of_tensors
from ..placing.ledger import keep_books
from .arrange import longest_cluster
from .atoms import PlanProblem
from .emit import places_of
from .fastest import predicted
from .found import Found, Wish
from .objective import value_of
from .problem import count_hops, is_legal
from .solve import BETTER, fill_score
from .telling import notes_of, prediction_of

CALMER = 0.002
"""A restless placement must be this much quicker than one whose streamed parts are spread."""


def kept_outcome(plan: Plan, tree: ModuleTree) -> Outcome | None:
    """Return the outcome of a plain plan nothing is wrong with: all on accelerators, none left out."""
    if any(unit.store is None or unit.store != unit.run for unit in plan.units):
        return None
    if any(unit.reason is Reason.FALLBACK for unit in plan.units):
        return None  # a repaired plan is out of order: the search decides whether to keep it
    books = keep_books(plan, tree)
    mains = [d.name for d in plan.devices if is_accelerator(d.name)]
    used = {unit.store: None for unit in plan.units}
    fits = all(
        device.memory is None or account.total <= device.memory
        for device, account in zip(plan.devices, books.ledger, strict=True)
    )
    pooled = any(device.pool is not None for device in plan.devices)
    if not fits or pooled or set(mains[: len(used)]) != set(used):
        return None
    owners = unit_of_tensors(tree, plan.units)
    runs = [index for index, _ in groupby(plan.units[owner].run for owner in owners)]
    return Outcome("fill", float(len(used)), float(len(used)), "kept", len(runs) - 1)


def simple_of(plan: Plan, model: PlanProblem, wish: Wish) -> Found | None:
    """Return the placement the plan came with, if it is legal and what the offload policy asks for."""
    places = places_of(plan, model)
    if any(unit.store is None for unit in plan.units):  # what is tied to a pin whose device is full
        return None
    if places is None or not is_legal(model.problem, places):
        return None
    streams = wish.offload in {"stream", "auto"}
    mains = model.problem.accelerators
    if not streams and mains and any(place.store not in mains for place in places):  # of no bytes, too
        return None
    return Found(model, places, wish.kept_aim, 0.0, 0.0, "kept")


def better_of(found: Found | None, simple: Found | None, wish: Wish) -> Found | None:
    """Return the one that was found, or the simple one where the gain is nil."""
    if found is None or simple is None:
        return found or simple
    if not _is_enough(found, simple, wish):
        return found
    notes = found.notes if _hops(found) == _hops(simple) else ()
    return replace(found, model=simple.model, places=simple.places, status="kept", notes=notes)


def _is_enough(found: Found, simple: Found, wish: Wish) -> bool:
    """Say whether the search gained nothing worth having over the simple placement."""
    problem, places = simple.model.problem, simple.places
    hops = _hops(simple), _hops(found)
    if wish.offload == "stream" and simple.computed > found.computed:
        return False
    if (simple.spilled or found.spilled) and found.objective != "throughput":
        if found.objective == "latency":
            times = predicted(simple, wish).priced, predicted(found, wish).priced
            calmer = longest_cluster(places) <= longest_cluster(found.places)
            return times[0] <= times[1] * (1 if calmer else 1 - CALMER)
        clusters = longest_cluster(places), longest_cluster(found.places)
        return (simple.spilled, hops[0], clusters[0]) <= (found.spilled, hops[1], clusters[1])
    if found.objective == "fill":
        return fill_score(problem, places)[:3] <= fill_score(found.model.problem, found.places)[:3]
    value = value_of(found.objective, problem, places, wish.work)
    if found.objective == "fewest-devices":
        return (value, hops[0]) <= (found.value, hops[1])
    return value <= found.value + abs(found.value) * BETTER


def _hops(found: Found) -> int:
    return count_hops(found.model.problem, found.places)


def outcome_of(found: Found, wish: Wish) -> Outcome:
    """Return what the plan records: the objective's value, its bound, how it was come by."""
    problem, hops = found.model.problem, _hops(found)
    if found.objective == "latency":
        seconds = predicted(found, wish).seconds
        bound = min(found.bound, seconds)
        notes = (*found.notes, *notes_of(found))
        told = prediction_of(found, wish)
        return Outcome("latency", seconds, bound, found.status, hops, notes, told)
    if found.objective == "throughput":
        value = value_of("throughput", problem, found.places, wish.work)
        return Outcome("throughput", value, min(value, found.bound), found.status, hops, found.notes)
    if found.spilled or found.objective == "accelerator-bytes":
        total = sum(atom.weight for atom in problem.atoms)
        kept = total - found.spilled
        bound = found.bound if found.objective == "accelerator-bytes" else total
        return Outcome("accelerator-bytes", kept, max(kept, bound), found.status, hops, found.notes)
    value = value_of(found.objective, problem, found.places, wish.work)
    return Outcome(found.objective, value, min(value, found.bound), found.status, hops, found.notes)

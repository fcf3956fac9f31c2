"""The search itself: in order where that holds everything, out of order where it must, spill last.

Every candidate is counted to the byte before it is believed, and the placement that was there
before is one of the candidates: the answer is never worse.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

from ...ir import Workload
from . import few_kinds, inorder
from .arrange import arrange, bring_closer, in_list_order, move_in
from .atoms import PlanProblem
from .candidates import candidates
from .carry import carry_over, spilled_layers
from .fastest import fastest, filled_in_order, predicted
from .formulate import easings
from .found import Found, Wish, spilled_bytes
from .leaving import leave_order
from .objective import bound_of, value_of
from .outoforder import Counts, fewest_hops, most_bytes
from .problem import Place, Problem, count_hops, is_legal, usage
from .sharing import with_least_busy

WORTH = 0.01
"""Splitting layers must keep this share of the accelerators' memory more in use to be worth it."""
ROUGHLY = 0.01
BETTER = 0.02
"""A continuous objective must gain this much to replace the simple plan."""


def search(coarse: PlanProblem, fine: PlanProblem, wish: Wish) -> Found | None:
    """Return the best placement found, with whole layers where that costs nothing; None if none is legal."""
    found = _searched(coarse, fine, wish)
    if found is None:
        return None
    return replace(found, places=in_list_order(found.model.problem, found.places))


def _searched(coarse: PlanProblem, fine: PlanProblem, wish: Wish) -> Found | None:
    models = (coarse,) if coarse.grains == fine.grains else (coarse, fine)
    for model in models:
        found = _best_in_order(model, wish)
        if found is not None:
            return leave_order(found, wish)
    room = sum(inorder.room_in_order(fine.problem, d) for d in fine.problem.accelerators)
    if fine.problem.total <= room:
        for model in models:
            found = _fit_out_of_order(model, wish)
            if found is not None:
                return found
        for model in wish.finer:  # parts of layers fill what whole ones leave
            found = _fit_out_of_order(model, wish)
            if found is not None:
                return found
    return None if wish.offload == "none" else _spill(coarse, fine, wish)


def _best_in_order(model: PlanProblem, wish: Wish) -> Found | None:
    problem = model.problem
    if not inorder.is_packable(problem):
        return None
    objective = wish.kept_aim
    places = list(candidates(problem, objective, wish.work))
    places = [candidate for candidate in places if is_legal(problem, candidate)]
    if not places:
        return None
    best = min(places, key=lambda candidate: _score(problem, candidate, objective, wish.work))
    value = value_of(objective, problem, best, wish.work)
    bound = value if objective == "fill" else min(value, bound_of(objective, problem, wish.work))
    return Found(model, best, objective, value, bound, "optimal" if value == bound else "in-order")


def _score(problem: Problem, places: list[Place], objective: str, work: Workload) -> tuple[float, ...]:
    if objective == "fill":
        return fill_score(problem, places)
    return value_of(objective, problem, places, work), count_hops(problem, places)


def fill_score(problem: Problem, places: list[Place]) -> tuple[float, ...]:
    """Order placements as people expect a plain plan: the devices in the order they are listed.

    As few of the list as possible, none before the last one empty, few changes of device, in the
    list's order, the earlier ones fuller.
    """
    mains = problem.accelerators
    used, runs = usage(problem, places), [place.run for place in places]
    taken = {*runs, *(place.run for place in problem.fixed.values())}
    last = max((i for i, device in enumerate(mains) if device in taken), default=0)
    empty = sum(device not in taken for device in mains[:last])
    backwards = sum(a > b for a, b in pairwise(runs))
    return last, empty, count_hops(problem, places), backwards, *(-used[d] for d in mains)


def _fit_out_of_order(model: PlanProblem, wish: Wish) -> Found | None:
    """Place everything on the accelerators in any order, with few changes of device."""
    problem = model.problem
    counts = _counted(problem, "none", wish)
    if counts is None:
        return None
    places = _fewest_changes(problem, counts, "none", wish)
    if not is_legal(problem, places):
        return None
    objective = wish.kept_aim
    value = value_of(objective, problem, places, wish.work)
    bound = value if objective == "fill" else min(value, bound_of(objective, problem, wish.work))
    note = f"no order-keeping placement fits; this one changes device {count_hops(problem, places)} times"
    status = "optimal" if value == bound else "unproven"
    return leave_order(Found(model, places, objective, value, bound, status, (note,)), wish)


def _counted(problem: Problem, policy: str, wish: Wish) -> Counts | None:
    """Return the counts that keep the most bytes: counted through where they are few, else solved.

    Where seconds decide, they are one way among others and need not be the most to the byte.
    """
    roughly = ROUGHLY if wish.timed and policy != "none" else 0.0
    return few_kinds.most_bytes_of_few(problem, policy) or most_bytes(problem, policy, wish.clock, roughly)


def _fewest_changes(problem: Problem, counts: Counts, policy: str, wish: Wish) -> list[Place]:
    """Return the arrangement of the counts, or of others that keep as many bytes, with the fewest hops."""
    simple = arrange(problem, counts, by_run=False)
    if wish.timed:  # hops are priced, and not worth a program of their own
        return filled_in_order(problem, simple, wish.work)
    kept = sum(atom.weight for atom in problem.atoms) - spilled_bytes(problem, simple)
    devices = len({place.run for place in simple})
    if count_hops(problem, simple) < devices:
        return simple
    better = fewest_hops(problem, policy, kept, wish.clock)
    if better is None:
        return filled_in_order(problem, simple, wish.work)
    places = arrange(problem, better, by_run=True)
    if not is_legal(problem, places) or spilled_bytes(problem, places) > spilled_bytes(problem, simple):
        return simple
    return min((simple, places), key=lambda candidate: count_hops(problem, candidate))


def _spill(coarse: PlanProblem, fine: PlanProblem, wish: Wish) -> Found | None:
    """Take the quickest way to use what does not fit; in bytes where that is asked for, else in seconds.

    The placements that keep the most bytes on the accelerators are the simple ones: they are compared by
    their seconds with each other and, where seconds decide, with what was found for them.
    """
    ways = ("stream", "compute") if wish.offload == "auto" else (wish.offload,)
    found = {way: f for way in ways if (f := _spill_by(coarse, fine, wish, way))}
    further = wish.offload == "stream" or (wish.offload == "auto" and wish.timed)
    alone = _streamed_further(found, fine, wish) if further else found
    if wish.offload == "stream" and (found := alone) and not wish.timed:
        return found["stream"]
    if not found:
        return None
    if len(found) < len(ways) and wish.clock.ended:  # what is best of one way need not be best of all
        total = sum(atom.weight for atom in fine.problem.atoms)
        found = {way: replace(each, status="unproven", bound=total) for way, each in found.items()}
    if wish.objective == "accelerator-bytes":
        found = {way: _in_parts(each, way, wish) for way, each in found.items()}
        return max(found.values(), key=lambda each: (each.value, -predicted(each, wish).priced))
    if wish.objective == "throughput":
        return with_least_busy(found.values(), (coarse, fine), wish)
    if not wish.timed:
        return min(found.values(), key=lambda each: predicted(each, wish).priced)
    return fastest((coarse, fine, *wish.finer), found, wish, alone)


def _streamed_further(found: dict[str, Found], fine: PlanProblem, wish: Wish) -> dict[str, Found]:
    """Return what streams in smaller pieces where larger ones would be computed on the host."""
    for model in (fine, *wish.finer):
        if (rest := found.get("stream")) is not None and not rest.computed:
            break
        if (smaller := _spill_by(model, model, wish, "stream")) is not None:
            found = {**found, "stream": smaller if rest is None or smaller.computed < rest.computed else rest}
    return found


def _in_parts(found: Found, way: str, wish: Wish) -> Found:
    """Return what keeps enough more bytes with parts apart, else what was found and what they could keep."""
    for model in wish.finer:
        room = sum(model.problem.rooms[d] for d in model.problem.accelerators)
        finer = _spill_by(model, model, wish, way)
        if finer is None:
            found = replace(found, status="unproven")
        elif finer.value - found.value > WORTH * room:
            found = finer
        else:
            found = replace(found, bound=max(found.bound, finer.bound))
    return found


def _spill_by(coarse: PlanProblem, fine: PlanProblem, wish: Wish, policy: str) -> Found | None:
    exact = _most_bytes(fine.problem, easings(policy) if wish.timed else (policy,), wish)
    if exact is None:
        return None
    counts, policy = exact
    total = sum(atom.weight for atom in fine.problem.atoms)
    room = sum(fine.problem.rooms[d] for d in fine.problem.accelerators)
    goal = total - sum(_kept(fine.problem, counts))
    for model, places in _whole_layers(coarse, fine, wish, policy):
        spilled = spilled_bytes(model.problem, places)
        if spilled - goal <= WORTH * room:
            break
    else:
        model, places = fine, _fewest_changes(fine.problem, counts, policy, wish)
        if not counts.proven and is_legal(fine.problem, places):
            places = move_in(fine.problem, places, range(len(places)), fine.problem.accelerators)
    places = bring_closer(model.problem, _fill_gaps(model.problem, places))
    if not is_legal(model.problem, places):
        return None
    kept = total - spilled_bytes(model.problem, places)
    status = "optimal" if counts.proven else "unproven"
    return Found(model, places, "accelerator-bytes", kept, max(kept, counts.bound), status)


def _fill_gaps(problem: Problem, places: list[Place]) -> list[Place]:
    """Use the gaps that are left where that costs no change of device."""
    if not is_legal(problem, places):
        return places
    fuller = move_in(problem, places, range(len(places)), problem.accelerators)
    return fuller if count_hops(problem, fuller) <= count_hops(problem, places) else places


def _kept(problem: Problem, counts: Counts) -> Iterator[int]:
    mains = set(problem.accelerators)
    for group, entry in zip(counts.groups, counts.table, strict=True):
        yield sum(group.atom.weight * n for place, n in entry.items() if place.store in mains)


def _most_bytes(problem: Problem, policies: tuple[str, ...], wish: Wish) -> tuple[Counts, str] | None:
    """Solve under the first policy that admits anything; at last allow computing where the bytes are."""
    for allowed in dict.fromkeys((*policies, "any")):
        counts = _counted(problem, allowed, wish)
        if counts is not None:
            return counts, allowed
    return None


def _whole_layers(
    coarse: PlanProblem, fine: PlanProblem, wish: Wish, policy: str
) -> Iterator[tuple[PlanProblem, list[Place]]]:
    """Yield placements that split no layer, then one layer a device, then as many as it takes."""
    if coarse.grains == fine.grains:
        return
    found = _counted(coarse.problem, policy, wish)
    if found is None:
        return
    whole = _fewest_changes(coarse.problem, found, policy, wish)
    yield coarse, whole
    places = carry_over(coarse, whole, fine)
    if not is_legal(fine.problem, places):
        return
    layers, mains = spilled_layers(coarse, whole, fine), fine.problem.accelerators
    for device in mains:
        nearest = min(layers, key=lambda layer: layer[0] != device, default=None)
        if nearest is not None:
            layers.remove(nearest)
            places = move_in(fine.problem, places, nearest[1], (device,))
    yield fine, places
    yield fine, move_in(fine.problem, places, range(len(places)), mains)

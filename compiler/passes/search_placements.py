"""Replace the simple placement by the best one found, if that is better.

Reserve-free and in order first; out of order where order is impossible; where something must be
stored off the accelerators, as little as can be proved, spread out, with a buffer on the device that
runs it. The simple placement stays when the gain is nil.

Before:
    plan 1
    model "m"
    device cuda:0 memory 3KiB
    device cuda:1 memory 4KiB
    device cpu memory 9KiB
    module a : Linear 2KiB
    module b : Linear 2KiB
    module c : Linear 1KiB
    module d : Linear 2KiB
    unit a
    unit b
    unit c
    unit d

After:
    plan 1
    model "m"
    device cuda:0 memory 3KiB
    device cuda:1 memory 4KiB
    device cpu memory 9KiB
    module a : Linear 2KiB
    module b : Linear 2KiB
    module c : Linear 1KiB
    module d : Linear 2KiB
    place a on cuda:1
    place b on cuda:1
    place c on cuda:0
    place d on cuda:0
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby
from typing import ClassVar

from ...ir import Diagnostics, ModuleTree, Outcome, Plan, Reason, is_accelerator, unit_of_tensors
from ..pipeline import Fact
from ..search.accounts import keep_books
from ..search.arrange import count_hops, longest_cluster
from ..search.atoms import build
from ..search.carry import carry_over
from ..search.emit import places_of, units_of
from ..search.objective import Workload, value_of
from ..search.problem import Place, Problem, is_legal
from ..search.report import misfit_error, spill_warning
from ..search.solve import BETTER, Found, Wish, fill_score, search, spilled_bytes


@dataclass(frozen=True, slots=True)
class SearchPlacements:
    """Search exactly; ``objective`` None is fewest devices, or most bytes where something spills."""

    name: ClassVar[str] = "search-placements"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.SIZED, Fact.TIED, Fact.OPENABLE})
    gives: ClassVar[frozenset[Fact]] = frozenset({Fact.PLACED})
    objective: str | None = None
    offload: str = "stream"
    time_limit: float = 10.0
    batch: int = 1
    prompt: int = 512
    generate: int = 128

    def run(self, plan: Plan, diagnostics: Diagnostics) -> Plan:
        """Return the plan with the better placement and what was proved about it."""
        if plan.tree is None or not plan.tree.tensor_names or not plan.devices:
            return plan
        if self.objective is None and (kept := _kept(plan, plan.tree)) is not None:
            return replace(plan, outcome=kept)
        work = Workload(self.batch, self.prompt, self.generate)
        wish = Wish(self.objective, self.offload, self.time_limit, work)
        fine = build(plan, plan.tree, whole_layers=False)
        found = search(build(plan, plan.tree, whole_layers=True), fine, wish)
        simple = places_of(plan, fine)
        if simple is not None and not _is_candidate(fine.problem, simple, self.offload):
            simple = None
        if found is None and simple is None:
            diagnostics.add(misfit_error(fine.problem, self.offload, wish.left(0.5)))
            return plan
        best = found or Found(fine, simple or [], self.objective or "fill", 0.0, 0.0, "kept")
        if simple is not None and (found is None or _is_enough(found, fine.problem, simple, wish)):
            best = replace(best, model=fine, places=simple)
            units, status = plan.units, "kept"
        else:
            units, status = units_of(plan, best.model, best.places), best.status
        if best.spilled and any(is_accelerator(d.name) for d in plan.devices):
            places = best.places if best.model is fine else carry_over(best.model, best.places, fine)
            diagnostics.add(spill_warning(best, fine.problem, places, wish.left(0.5)))
        return replace(plan, units=units, outcome=_outcome(best, status, wish))


def _kept(plan: Plan, tree: ModuleTree) -> Outcome | None:
    """Return the outcome of a plain plan nothing is wrong with: all on accelerators, none left out."""
    if any(
        unit.store is None or unit.store != unit.run or unit.reason is Reason.FALLBACK for unit in plan.units
    ):
        return None  # a repaired plan is out of order: the search may keep it
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


def _is_candidate(problem: Problem, places: list[Place], offload: str) -> bool:
    """Say whether the simple placement is legal and what the offload policy asks for."""
    outside = spilled_bytes(problem, places)
    return is_legal(problem, places) and (not outside or offload in {"stream", "auto"})


def _is_enough(found: Found, problem: Problem, simple: list[Place], wish: Wish) -> bool:
    """Say whether the search gained nothing worth having over the simple placement."""
    before, after = spilled_bytes(problem, simple), found.spilled
    hops = count_hops(problem, simple), count_hops(found.model.problem, found.places)
    if before != after or after:
        clusters = longest_cluster(simple), longest_cluster(found.places)
        return (before, hops[0], clusters[0]) <= (after, hops[1], clusters[1])
    if found.objective == "fill":
        return fill_score(problem, simple)[:3] <= fill_score(found.model.problem, found.places)[:3]
    value = value_of(found.objective, problem, simple, wish.work)
    if found.objective == "fewest-devices":
        return (value, hops[0]) <= (found.value, hops[1])
    return value <= found.value + abs(found.value) * BETTER


def _outcome(found: Found, status: str, wish: Wish) -> Outcome:
    problem, hops = found.model.problem, count_hops(found.model.problem, found.places)
    if found.spilled or found.objective == "accelerator-bytes":
        total = sum(atom.weight for atom in problem.atoms)
        kept = total - found.spilled
        bound = found.bound if found.objective == "accelerator-bytes" else total
        return Outcome("accelerator-bytes", kept, max(kept, bound), status, hops, found.notes)
    value = value_of(found.objective, problem, found.places, wish.work)
    return Outcome(found.objective, value, min(value, found.bound), status, hops, found.notes)

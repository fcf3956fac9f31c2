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
    place a on cuda:1 added
    place b on cuda:1 added
    place c on cuda:0 added
    place d on cuda:0 added
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import ClassVar

from ...ir import ComputedInstead, Diagnostics, ModuleTree, Plan, SearchEnded, Spill, Workload, is_accelerator
from ...ir.purposes import lasting_purposes
from ..placing.attempts import fixed_items, spills
from ..placing.findings import with_findings
from ..placing.first_fit import FirstFitRules
from ..placing.ledger import keep_books
from ..placing.visiting import around_visits
from ..search.atoms import PlanProblem, build
from ..search.carry import carry_over
from ..search.clock import Clock
from ..search.emit import units_of
from ..search.flows import Flow
from ..search.found import Found, Wish
from ..search.hostcuts import confined
from ..search.misfits import computed_instead, misfit_error, spill_of, undecided_error
from ..search.rowwise import kept_for_rows
from ..search.solve import search
from ..search.staying import staying
from ..search.telling import foretold
from ..search.verdict import better_of, kept_outcome, outcome_of, simple_of
from .pipeline import Fact


@dataclass(frozen=True, slots=True)
class SearchPlacements:
    """Search exactly; ``objective`` None is fewest devices, or most bytes where something spills."""

    name: ClassVar[str] = "search-placements"
    needs: ClassVar[frozenset[Fact]] = frozenset({Fact.SIZED, Fact.TIED, Fact.OPENABLE})
    gives: ClassVar[frozenset[Fact]] = frozenset({Fact.PLACED})
    objective: str | None = None
    offload: str = "auto"
    time_limit: float = 60.0
    batch: int = 1
    prompt: int = 512
    generate: int = 128
    spills_only: bool = False
    """Keep what holds everything on accelerators: for strategies that promise an order or a spread."""
    flows: tuple[Flow, ...] = ()
    """What the modules hand each other, if a forward was traced: `throughput` counts what crosses devices."""

    def run(self, plan: Plan, diagnostics: Diagnostics) -> Plan:
        """Return the plan with the better placement and what was proved about it."""
        placed = around_visits(plan, lambda around: self._place(around, diagnostics))
        return _foretold(placed) if placed.outcome is not None else placed

    def _place(self, plan: Plan, diagnostics: Diagnostics) -> Plan:
        if plan.tree is None or not plan.tree.tensor_names or not plan.devices:
            return plan
        if self.spills_only and _is_settled(plan, plan.tree):
            return plan
        if self.objective is None and (kept := kept_outcome(plan, plan.tree)) is not None:
            return replace(plan, outcome=kept)
        work = plan.workload or Workload("generate", self.batch, self.prompt, self.generate, added=True)
        chosen, fine, wish = self._best(plan, plan.tree, work)
        lasting = lasting_purposes(plan.demands)
        if chosen is None:
            undecided = wish.clock.undecided
            error = undecided_error() if undecided else misfit_error(fine.problem, self.offload, lasting)
            diagnostics.add(error)
            return plan
        before, chosen = chosen, staying(plan, chosen)
        spilled: list[Spill] = []
        if chosen.spilled and any(is_accelerator(d.name) for d in plan.devices):
            places = carry_over(chosen.model, chosen.places, fine)
            patience = Clock(inf if self.time_limit else 0)  # advice may take steps, but no clock changes it
            spilled.append(spill_of(chosen, fine.problem, places, lasting, patience))
        pairs = zip(chosen.model.problem.atoms, chosen.places, strict=True)
        rows = any(atom.rows and place.streamed for atom, place in pairs)
        simple = chosen.status == "kept" and not rows and chosen is before
        units = plan.units if simple else units_of(plan, chosen.model, chosen.places)
        streaming = self.offload == "stream" and any(is_accelerator(d.name) for d in plan.devices)
        plan = with_findings(plan, ComputedInstead, computed_instead(chosen, units) if streaming else ())
        ended = [SearchEnded(self.time_limit)] if wish.clock.ended and self.time_limit else []
        plan = with_findings(with_findings(plan, Spill, spilled), SearchEnded, ended)
        outcome = outcome_of(chosen, wish)
        assumed = work if outcome.predicted is not None else plan.workload
        caches = (*plan.caches, *kept_for_rows(chosen.model, chosen.places, plan.caches))
        return replace(plan, units=units, caches=caches, outcome=outcome, workload=assumed)

    def _best(self, plan: Plan, tree: ModuleTree, work: Workload) -> tuple[Found | None, PlanProblem, Wish]:
        """Return the best placement, the finest problem and what was wished; layers stay on one host each.

        Where bytes are all that counts, what gives up whole layers on one host is tried as well.
        """
        clock = Clock(self.time_limit)
        layers = build(plan, tree, whole_layers=True, flows=self.flows)
        best: tuple[Found | None, PlanProblem, Wish] | None = None
        for bound in confined(plan, layers, work, busiest=self.objective == "throughput"):
            coarse = layers if bound is plan else build(bound, tree, whole_layers=True, flows=self.flows)
            parts = build(bound, tree, parts=True, flows=self.flows)
            fine = build(bound, tree, whole_layers=False, flows=self.flows)
            wish = Wish(self.objective, self.offload, work, clock, (parts,) if parts.homes else ())
            simple = simple_of(plan, fine, wish) if bound is plan else None
            found = self._chosen(coarse, fine, simple, wish)
            if best is None or best[0] is None or (found is not None and found.spilled < best[0].spilled):
                best = found, fine, wish
            if found is not None and (not found.spilled or self.objective != "accelerator-bytes"):
                break
        assert best is not None  # noqa: S101  # the plan itself comes last
        return best

    def _chosen(
        self, coarse: PlanProblem, fine: PlanProblem, simple: Found | None, wish: Wish
    ) -> Found | None:
        """Return the better placement; whether there is one at all is no matter of time."""
        if simple is not None and not self.time_limit:
            return simple
        chosen = better_of(search(coarse, fine, wish), simple, wish)
        if chosen is not None or not wish.clock.ended:
            return chosen
        wish.clock.seconds = inf
        return search(coarse, fine, wish)


def _foretold(plan: Plan) -> Plan:
    """Return the plan with the seconds of its workload, where it has one and nothing said them yet."""
    if plan.tree is None or plan.outcome is None or plan.outcome.predicted is not None:
        return plan
    told = None if plan.workload is None else foretold(plan, plan.tree, plan.workload)
    if told is None:
        return plan
    outcome = replace(plan.outcome, notes=(*plan.outcome.notes, *told[1]), predicted=told[0])
    return replace(plan, outcome=outcome)


def _is_settled(plan: Plan, tree: ModuleTree) -> bool:
    """Say whether nothing spills and every device holds what it is given."""
    if spills(plan):
        return False
    limits = {device.name: device.memory for device in plan.devices}
    accounts = keep_books(plan, tree).ledger
    return all(
        (limit := limits[account.device]) is None or account.total <= limit for account in accounts
    ) and FirstFitRules(plan, tree, {}, {}).allow(fixed_items(plan, tree))

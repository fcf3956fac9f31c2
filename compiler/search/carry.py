"""One placement seen from models of different grain: tensors are what they have in common."""

from __future__ import annotations

from .atoms import PlanProblem
from .problem import Place


def carry_over(source: PlanProblem, places: list[Place], target: PlanProblem) -> list[Place]:
    """Return the places of another model's atoms under the same placement."""
    codes = tensor_places(source, places)
    return [codes[target.grains[atom.grains[0]].start] for atom in target.problem.atoms]


def tensor_places(model: PlanProblem, places: list[Place]) -> list[Place]:
    """Return the place of every tensor."""
    by_grain = dict(model.problem.fixed)
    for atom, place in zip(model.problem.atoms, places, strict=True):
        by_grain.update(dict.fromkeys(atom.grains, place))
    codes: list[Place] = []
    for index, grain in enumerate(model.grains):
        codes += [by_grain[index]] * (grain.stop - grain.start)
    return codes


def spilled_layers(coarse: PlanProblem, places: list[Place], fine: PlanProblem) -> list[tuple[int, set[int]]]:
    """Return what runs every layer off the accelerators, and the atoms of the finer model inside it."""
    mains = set(coarse.problem.accelerators)
    starts = {fine.grains[atom.grains[0]].start: i for i, atom in enumerate(fine.problem.atoms)}
    layers: list[tuple[int, set[int]]] = []
    for atom, place in zip(coarse.problem.atoms, places, strict=True):
        if place.store not in mains:
            spans = [coarse.grains[g] for g in atom.grains]
            inside = {starts[t] for span in spans for t in range(span.start, span.stop) if t in starts}
            layers.append((place.run, inside))
    return layers

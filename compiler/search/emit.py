"""From places back to a plan: the largest modules whose tensors are all at one place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ...ir import ModuleTree, Plan, Reason, Unit, is_accelerator, unit_of_tensors
from ..placing.frontier import item_path, largest_of_one
from ..placing.grains import is_pin
from .atoms import PlanProblem
from .carry import tensor_places
from .problem import Place


class Spot(NamedTuple):
    """Where a tensor is, and the path of what it travels by rows with; that is a unit of its own."""

    place: Place
    rows_of: str = ""


def units_of(plan: Plan, model: PlanProblem, places: list[Place]) -> tuple[Unit, ...]:
    """Return the units of a placement in tree order, pins as they were written."""
    tree, codes = model.tree, _spots(model, places)
    apart = _visited(model, codes)
    for layer, home, _ in apart:
        inside = tree.tensors(layer)
        codes[inside.start : inside.stop] = [home] * len(inside)
    pins = {unit.path: unit for unit in plan.units if is_pin(unit.reason)}
    fixed = {model.grains[g].path for g in model.problem.fixed}
    found: list[Unit] = []
    for item, first in largest_of_one(tree, codes, set(model.opened)):
        path = item_path(tree, item)
        if path in pins:
            found.append(pins.pop(path))
        else:
            found.append(_unit(plan, path, codes[first], tied=path in fixed))
    found += [_unit(plan, path, spot, tied=False) for _, _, parts in apart for path, spot in parts]
    return _in_tree_order(tree, [*found, *pins.values()])


def _spots(model: PlanProblem, places: list[Place]) -> list[Spot]:
    """Return the spot of every tensor."""
    spots = [Spot(place) for place in tensor_places(model, places)]
    for atom, place in zip(model.problem.atoms, places, strict=True):
        if atom.rows and place.streamed:
            for grain in (model.grains[g] for g in atom.grains):
                spots[grain.start : grain.stop] = [Spot(place, grain.path)] * (grain.stop - grain.start)
    return spots


def _visited(model: PlanProblem, codes: list[Spot]) -> list[tuple[int, Spot, list[tuple[str, Spot]]]]:
    """Return the modules with parts elsewhere: the module, its own place, and what is elsewhere where."""
    tree, found = model.tree, list[tuple[int, Spot, list[tuple[str, Spot]]]]()
    inner = {grain.start: grain.path for grain in model.grains}
    for home in model.homes:
        layer = tree.module_index[model.grains[home[0]].path]
        place, inside = codes[model.grains[home[0]].start], tree.tensors(layer)
        starts = [tensor for tensor in inside if tensor in inner and codes[tensor] != place]
        if starts:
            found.append((layer, place, [(inner[tensor], codes[tensor]) for tensor in starts]))
    return found


def places_of(plan: Plan, model: PlanProblem) -> list[Place] | None:
    """Return the places the plan's units give to a model's atoms; None where they give none or several.

    What belongs to a pin must be where the pin says, or the plan gives none.
    """
    index = {device.name: i for i, device in enumerate(plan.devices)}
    owner = unit_of_tensors(model.tree, plan.units)

    def place_of(grains: tuple[int, ...]) -> Place | None:
        spans = [model.grains[g] for g in grains]
        units = {owner[t] for span in spans for t in range(span.start, span.stop)}
        at = {(plan.units[u].store, plan.units[u].run) if u >= 0 else (None, None) for u in units}
        store, run = next(iter(at))
        if len(at) > 1 or store not in index or run not in index:
            return None
        return Place(index[store], index[run])

    if any(place_of((grain,)) != place for grain, place in model.problem.fixed.items()):
        return None
    found = [place_of(atom.grains) for atom in model.problem.atoms]
    places = [place for place in found if place is not None]
    return places if len(places) == len(found) else None


def _unit(plan: Plan, path: str, spot: Spot, *, tied: bool) -> Unit:
    store, run = plan.devices[spot.place.store].name, plan.devices[spot.place.run].name
    spilled = not is_accelerator(store) and any(is_accelerator(d.name) for d in plan.devices)
    reason = Reason.TIED if tied else Reason.SPILLED if spilled else Reason.SEARCHED
    return Unit(path, store, run, reason, by_rows=bool(spot.rows_of))


def _in_tree_order(tree: ModuleTree, units: Iterable[Unit]) -> tuple[Unit, ...]:
    def position(unit: Unit) -> tuple[int, int]:
        module = tree.module_index.get(unit.path)
        if module is not None:
            return (tree.first_tensors[module], module)
        return (tree.tensor_index[unit.path], -1)

    return tuple(sorted(units, key=position))

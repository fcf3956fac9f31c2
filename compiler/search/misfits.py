"""What the search has to say: spills as values, misfits as errors, each with its numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import inf

from ...ir import (
    DISK,
    ComputedInstead,
    Diagnostic,
    Reason,
    Spill,
    Unit,
    device_type,
    human_size,
    is_accelerator,
)
from ...ir.rules.budgets import NO_USABLE_DEVICE
from ...ir.rules.searching import DOES_NOT_FIT, PLACEMENT_NOT_FOUND
from ...ir.wording import joined_words, listed
from ..placing.findings import say_needs
from .change import Change, describe_change, named_with_pool, smallest_change
from .clock import Clock
from .found import Found
from .outoforder import least_extra
from .problem import NEVER, UNLIMITED, Place, Problem, usage


def spill_of(found: Found, problem: Problem, places: list[Place], kept: str, clock: Clock) -> Spill:
    """Return the spill of a placement with its proof, and the change that would avoid it."""
    change, mains = smallest_change(problem, clock), problem.accelerators
    used = usage(problem, places)
    gaps = [max(0, problem.rooms[d] - used[d]) for d in mains]
    outside = [a for a, p in zip(problem.atoms, places, strict=True) if p.store not in mains]
    return Spill(
        nbytes=found.spilled,
        total=sum(atom.weight for atom in problem.atoms),
        needed=problem.total,
        lasting=sum(atom.demand for atom in problem.atoms),
        kept=kept,
        peak=max((atom.peak for atom in problem.atoms), default=0),
        free=sum(max(0, problem.rooms[d]) for d in mains),
        largest=max((atom.cost for atom in outside), default=0),
        smallest=min((atom.cost for atom in outside if atom.weight), default=0),
        gap=max(gaps, default=0),
        more=None if change is None else (named_with_pool(problem, change.device), change.nbytes),
        unproven=max(0, int(found.bound - found.value)) if _in_bytes(found) else None,
    )


def computed_instead(found: Found, units: Iterable[Unit]) -> Iterator[ComputedInstead]:
    """Yield what is computed off the accelerators, and what streaming the largest of it would take."""
    problem, mains = found.model.problem, found.model.problem.accelerators
    pairs = zip(problem.atoms, found.places, strict=True)
    computed = [atom for atom, place in pairs if place.run not in mains and atom.weight]
    if computed:
        needs = [a.stream + a.peak + a.demand for a in computed if a.stream < NEVER]
        names = {problem.devices[d].name for d in mains}
        paths = tuple(u.path for u in units if u.reason is not Reason.WRITTEN and u.run not in names)
        room = max((problem.rooms[d] for d in mains), default=0)
        largest = max(needs, default=0)
        ruled = largest <= room
        yield ComputedInstead(paths, found.computed, 0 if ruled else largest, room)


def _in_bytes(found: Found) -> bool:
    """Say whether bytes were sought, and the solver stopped before it could prove them."""
    return found.status == "unproven" and found.objective == "accelerator-bytes"


def undecided_error() -> Diagnostic:
    """Return the error of a problem for which nothing was found and nothing was proved."""
    return Diagnostic(
        PLACEMENT_NOT_FOUND,
        "no placement was found, and none was proved to be impossible",
        help="raise a budget, pin the largest units, or drop rules that are not needed",
    )


def misfit_error(problem: Problem, offload: str, kept: str) -> Diagnostic:
    """Return the error of a problem without any legal placement; ``kept`` is what it has beside weights."""
    mains, clock = problem.accelerators, Clock(inf)
    if all(device_type(device.name) == DISK for device in problem.devices):
        message = "a disk stores but does not compute, and nothing else is listed"
        return Diagnostic(NO_USABLE_DEVICE, message, help="list `cpu` or an accelerator as well")
    devices = mains if offload == "none" else (*mains, *problem.hosts)
    rooms = sum(max(0, problem.rooms[d]) for d in devices)
    has = "unlimited room" if rooms >= UNLIMITED else f"{human_size(rooms)} free"
    largest = max(problem.atoms, key=lambda atom: atom.cost)
    lasting = sum(atom.demand for atom in problem.atoms)
    peak = max((atom.peak for atom in problem.atoms), default=0)
    names = listed([problem.devices[d].name for d in devices]) or "no device"
    return Diagnostic(
        DOES_NOT_FIT,
        f"the model does not fit on {names}",
        notes=(
            f"needs {say_needs(problem.total, lasting, kept, peak)}, has {has}",
            f"largest unit {human_size(largest.cost)}",
        ),
        help=_way_out(problem, offload, clock),
    )


def _way_out(problem: Problem, offload: str, clock: Clock) -> str:
    change = smallest_change(problem, clock)
    if offload != "none" and problem.cpu is not None:
        extra = least_extra(problem, offload, problem.cpu, clock)
        if extra and (change is None or extra <= change.nbytes):
            listed = any(device_type(device.name) == DISK for device in problem.devices)
            disk = "" if listed or offload == "compute" else ", or list `disk`"
            return _said(problem, Change(problem.cpu, extra)) + disk
    offers = [] if change is None else [_said(problem, change)]
    if offload == "none":
        return ", or ".join([*offers, "allow offloading with `--offload auto`"])
    if offers and problem.cpu is None:
        return f"{offers[0]}, or list `cpu` or `disk`"
    kind = "accelerator" if any(is_accelerator(d.name) for d in problem.devices) else "device"
    otherwise = f"list another {kind}, `cpu` or `disk`, or allow what must stay whole to be split"
    return offers[0] if offers else otherwise


def _said(problem: Problem, change: Change) -> str:
    """Say a change, and what devices lack besides for what lines place there alone."""
    lacking = {d: -room for d, room in enumerate(problem.rooms) if room < 0}
    for pool in problem.pools:
        if pool.room < 0 and change.device not in pool.members:
            lacking[pool.members[0]] = max(-pool.room, lacking.get(pool.members[0], 0))
    others = [Change(device, nbytes) for device, nbytes in lacking.items() if device != change.device]
    return joined_words([describe_change(problem, each) for each in (*others, change)])

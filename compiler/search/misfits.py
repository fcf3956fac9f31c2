"""What the search has to say: spills and misfits as diagnostics with their numbers."""

from __future__ import annotations

from ...ir import DISK, Diagnostic, device_type, human_size, is_accelerator, size_up
from ...ir.rules.budgets import NO_USABLE_DEVICE
from ...ir.rules.searching import DOES_NOT_FIT, SPILL
from .change import describe_change, needed, proof, smallest_change
from .found import Found
from .outoforder import least_extra
from .problem import UNLIMITED, Place, Problem


def spill_warning(found: Found, problem: Problem, places: list[Place], seconds: float) -> Diagnostic:
    """Return the warning of a placement that spills, with the change that would avoid it."""
    change = smallest_change(problem, seconds)
    total = sum(atom.weight for atom in problem.atoms)
    message = f"{human_size(found.spilled)} of {human_size(total)} fit on no accelerator"
    help_ = None if change is None else f"{describe_change(problem, change)} and nothing spills"
    if found.status == "time-limit":
        gap = human_size(int(max(0, found.bound - found.value)))
        return Diagnostic(
            SPILL, message, notes=(*proof(problem, places), f"not proven: {gap} may be gained"), help=help_
        )
    return Diagnostic(SPILL, message, notes=proof(problem, places), help=help_)


def misfit_error(problem: Problem, offload: str, seconds: float) -> Diagnostic:
    """Return the error of a problem without any legal placement."""
    mains = problem.accelerators
    if all(device_type(device.name) == DISK for device in problem.devices):
        message = "a disk stores but does not compute, and nothing else is listed"
        return Diagnostic(NO_USABLE_DEVICE, message, help="list `cpu` or an accelerator as well")
    devices = mains if offload == "none" else (*mains, *problem.hosts)
    rooms = sum(max(0, problem.rooms[d]) for d in devices)
    has = "unlimited room" if rooms >= UNLIMITED else f"{human_size(rooms)} free"
    largest = max(problem.atoms, key=lambda atom: atom.cost)
    names = ", ".join(problem.devices[d].name for d in devices) or "no device"
    return Diagnostic(
        DOES_NOT_FIT,
        f"the model does not fit on {names}",
        notes=(
            f"needs {needed(problem)}, has {has}",
            f"largest unit {human_size(largest.cost)}",
        ),
        help=_way_out(problem, offload, seconds),
    )


def _way_out(problem: Problem, offload: str, seconds: float) -> str:
    if offload == "none":
        change = smallest_change(problem, seconds)
        offer = f"{describe_change(problem, change)}, or " if change else ""
        return f"{offer}allow offloading with `--offload stream`"
    change = smallest_change(problem, seconds)
    if problem.cpu is not None:
        extra = least_extra(problem, offload, problem.cpu, seconds)
        if extra and (change is None or extra <= change.nbytes):
            return f"+{size_up(extra)} on {problem.devices[problem.cpu].name}"
    if change is not None and problem.cpu is not None:
        return describe_change(problem, change)
    if change is not None:
        return f"{describe_change(problem, change)}, or list `cpu` or `disk`"
    kind = "accelerator" if any(is_accelerator(d.name) for d in problem.devices) else "device"
    return f"list another {kind}, `cpu` or `disk`, or allow what must stay whole to be split"

"""Which demands count: bounds for each piece apart, or what is known where everything runs on one device.

What a piece needs wherever the others are is an upper bound: copies of what crosses, caches that are longest
when the prompt's activations are gone. Where nothing crosses a trace tells what is alive at once, to the
byte; a plan holds both, so that it can be placed again without its model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ...ir import Demand, Plan
from ...ir.purposes import ACTIVATIONS, ALONE, ALONE_HOST, APART, KV_CACHE, ON_ONE, TOGETHER, counts_on


def in_force(plan: Plan) -> tuple[Demand, ...]:
    """Return the demands that count where a placed plan runs everything."""
    known = [each for each in plan.demands if each.purpose in TOGETHER]
    bounds = tuple(each for each in plan.demands if each.purpose not in TOGETHER)
    device = one_runner(plan)
    if not known or device is None or _are_written(bounds):
        return plan.demands if stands_alone(plan.demands) else bounds
    here = [each for each in known if each.purpose in ALONE_HOST and counts_on(each.purpose, device)]
    here = here or [each for each in known if each.purpose in ALONE]
    return (*(each for each in bounds if each.purpose not in APART), *here)


def one_runner(plan: Plan) -> str | None:
    """Return the device that everything of a placed plan runs on; None for several."""
    runs = {unit.run for unit in plan.units}
    return runs.pop() if len(runs) == 1 else None


def stands_alone(demands: Iterable[Demand]) -> bool:
    """Say whether what is known for one device is all there is: the plan is being tried on one."""
    purposes = {each.purpose for each in demands}
    return ON_ONE in purposes and purposes.isdisjoint(APART)


def for_one_device(plan: Plan) -> Plan | None:
    """Return a plan that counts on everything running on one device; None where nothing is known of that."""
    if all(each.purpose != ON_ONE for each in plan.demands) or _are_written(plan.demands):
        return None
    return replace(plan, demands=tuple(each for each in plan.demands if each.purpose not in APART))


def with_bounds(plan: Plan, before: Plan) -> Plan:
    """Return a plan that was tried on one device with the bounds for pieces apart that stood in it."""
    bounds = tuple(each for each in before.demands if each.purpose in APART)
    return replace(plan, demands=(*bounds, *plan.demands))


def no_less(plan: Plan) -> Plan | None:
    """Return a plan whose largest bound is no less than what is known of one device; None where it is one.

    What is known counts whole requests of an allocator, bounds the bytes that are asked for: of kilobytes
    that is a good part. A device that runs everything holds what the bound is for.
    """
    known = max((each.nbytes for each in plan.demands if each.purpose in ALONE), default=0)
    bounds = [each for each in plan.demands if each.purpose == ACTIVATIONS]
    top = max(bounds, key=lambda each: each.nbytes, default=None)
    if top is None or top.nbytes >= known or _are_written(plan.demands):
        return None
    raised = (replace(each, nbytes=known) if each is top else each for each in plan.demands)
    return replace(plan, demands=tuple(raised))


def _are_written(demands: Iterable[Demand]) -> bool:
    """Say whether a person said what a forward needs: that is counted as it stands."""
    return any(not each.added and each.purpose in APART | {KV_CACHE} for each in demands)

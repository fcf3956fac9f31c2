"""A plan that nobody has made yet, in a group of processes: the first makes one for all their machines.

Where a person says which devices, their names decide: those of hosts make one plan for all processes,
plain ones (``cuda:0``) a plan for the process alone. Where nobody says, the machines are gathered; processes
that share a machine would each plan with all of it, so they have to say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ...ir import Device, Diagnostic, Diagnostics, Model, Plan, PlanError, host_of
from ...ir.rules.hosts import HOSTS_AND_RANKS
from ..lines.files import read_overrides
from ..machine.budgets import devices_from
from ..machine.machine_file import with_rates
from ..machine.this_machine import on_host, this_machine


def compiled_together(
    compiled: Callable[[Mapping[str, Any]], Plan], options: Mapping[str, Any], host: str | None
) -> Plan:
    """Return the plan for this process, or the one for all processes of its group.

    Args:
        compiled: makes a plan with the options given.
        options: what the caller said.
        host: the name of this host, where its caller said it.

    Raises:
        PlanError: as `compiled`; the processes share a machine or ask for different plans.

    """
    from ..loading.hosts import names_of, one_plan, others

    named = _devices(options)
    if named and not any(host_of(device.name) for device in named):
        return compiled(options)
    wire = others()
    if wire is None:
        return compiled(options)
    names = names_of(wire, host)
    lines = () if named else (Plan(Model(""), devices=_gathered(names, wire)),)
    overrides = (*lines, *read_overrides(options.get("overrides")))
    asked = repr(sorted((name, repr(value)) for name, value in options.items() if value is not None))
    more = {**options, "overrides": overrides} if lines else options
    return one_plan(wire, names, asked, lambda: compiled(more))


def name_here(plan: Plan, host: str | None) -> str | None:
    """Return which host of a plan that was made for all processes this one is; None: its place says so.

    Accelerators are listed first, so hosts called by their ranks are not always listed in that order.
    """
    from ..loading.hosts import others, unnamed

    wire = others() if host is None and any(host_of(device.name) for device in plan.devices) else None
    if wire is None:
        return host
    ranks = unnamed(wire)
    return ranks[wire.me] if {host_of(device.name) for device in plan.devices} == set(ranks) else None


def _devices(options: Mapping[str, Any]) -> tuple[Device, ...]:
    """Return the devices a person names, in a budget or in lines."""
    given = options.get("max_memory")
    said = () if given is None else devices_from(given, Diagnostics())
    return (
        *said,
        *(device for lines in read_overrides(options.get("overrides")) for device in lines.devices),
    )


def _gathered(names: tuple[str, ...], wire: Any) -> tuple[Device, ...]:  # noqa: ANN401  # opened with torch
    from ..loading.hosts import machines_of

    machines = machines_of(wire)
    double = next((machine for machine in machines if machines.count(machine) > 1), None)
    if double is not None:
        shared = [name for name, machine in zip(names, machines, strict=True) if machine == double]
        message = f"{len(shared)} processes are on one machine, and each would plan with all of it"
        help_ = (
            "say what each has: `max_memory={'node1/cuda:0': …, 'node2/cuda:1': …}` for one model over all"
            " of them, `max_memory={'cuda:0': …}` for a model in each; or start one process per machine"
        )
        notes = (f"they are {', '.join(f'`{name}`' for name in shared)}",)
        raise PlanError([Diagnostic(HOSTS_AND_RANKS, message, notes=notes, help=help_)])
    found = Diagnostics()
    here = with_rates(this_machine(found), None, found)
    told: list[tuple[Device, ...]] = wire.exchange(here)
    return tuple(on_host(device, name) for name, each in zip(names, told, strict=True) for device in each)

"""What of a plan is this host's: its devices by their local names, its units, and what every host has."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import torch

from ....ir import CPU, DISK, ModuleTree, Plan, device_type, host_of
from ...running.everywhere import made_everywhere, opened_around_layers

ELSEWHERE: Final = torch.device("meta")
"""Where everything of other hosts is."""


def hosts_of(plan: Plan) -> tuple[str, ...]:
    """Return the hosts of a plan in the order of its device lines; one without a name is ``""``."""
    listed = [device.name for device in plan.devices]
    used = [name for unit in plan.units for name in (unit.store, unit.run) if name]
    return tuple(dict.fromkeys(host_of(name) for name in (*listed, *used)))


@dataclass(frozen=True, slots=True)
class LocalView:
    """A plan as one host sees it."""

    hosts: tuple[str, ...]
    me: int

    @property
    def host(self) -> str:
        """The name of this host."""
        return self.hosts[self.me]

    def number_of(self, device: str) -> int:
        """Return the host a device is on, as a number."""
        return self.hosts.index(host_of(device))

    def is_mine(self, device: str) -> bool:
        """Say whether a device is on this host."""
        return host_of(device) == self.host

    def home_device(self, plan: Plan) -> str:
        """Return the device of this host that what belongs to no unit is on: that of its first unit."""
        runs = [str(unit.run) for unit in plan.units if unit.run is not None and self.is_mine(unit.run)]
        listed = [device.name for device in plan.devices if self.is_mine(device.name)]
        usable = [name for name in (*runs, *listed) if device_type(name) != DISK]
        return usable[0] if usable else f"{self.host}/{CPU}".removeprefix("/")

    def made(self, plan: Plan, tree: ModuleTree) -> frozenset[str]:
        """Return the paths of the units that every host makes for itself."""
        return made_everywhere(plan, tree)

    def with_made(self, plan: Plan, tree: ModuleTree) -> Plan:
        """Return the plan with what every host makes placed on this one."""
        plan = opened_around_layers(plan, tree) if len(self.hosts) > 1 else plan
        home = self.home_device(plan)
        made = self.made(plan, tree)
        units = (replace(unit, store=home, run=home) if unit.path in made else unit for unit in plan.units)
        return replace(plan, units=tuple(units))


def torch_name(device: str) -> str:
    """Return what torch calls a device of this host: ``cuda:0`` for ``node1/cuda:0``."""
    return device.rpartition("/")[2]

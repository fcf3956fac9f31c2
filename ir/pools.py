"""Physical memories that several devices share."""

from __future__ import annotations

from collections.abc import Iterable

from .plan import Device


def pool_sizes(devices: Iterable[Device]) -> dict[str, int | None]:
    """Return the bytes of each pool: what its devices say, else the largest budget; None is unlimited."""
    members: dict[str, list[Device]] = {}
    for device in devices:
        if device.pool is not None:
            members.setdefault(device.pool, []).append(device)
    return {name: _size(each) for name, each in members.items()}


def _size(devices: list[Device]) -> int | None:
    given = [device.pool_memory for device in devices if device.pool_memory is not None]
    budgets = [
        device.memory for device in devices if device.memory is not None and device.pool_memory is None
    ]
    if not given and len(budgets) < len(devices):
        return None
    return max(given + budgets)

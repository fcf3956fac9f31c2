"""TabbyAPI and exllamav3: budgets of cards, which it fills by itself."""

from __future__ import annotations

import math

from ...ir import Account, Diagnostic, Plan, is_accelerator, unit_of_tensors
from .checks import layers_or_error, loses
from .engine import Engine

NAME = "tabbyapi"
_MIB = 2**20


def accepts(plan: Plan) -> tuple[Diagnostic, ...]:
    """Say that budgets are all TabbyAPI is told: it fills the cards by itself."""
    if plan.tree is None or not plan.units or any(unit.store is None for unit in plan.units):
        stack = layers_or_error(NAME, plan)
        return (stack,) if isinstance(stack, Diagnostic) else ()
    nbytes = plan.tree.nbytes or ()
    owner = unit_of_tensors(plan.tree, plan.units)
    away = sum(
        nbytes[tensor] for tensor, unit in enumerate(owner) if tensor == plan.tree.storages[tensor]
        and not is_accelerator(plan.units[unit].store or "")
    )  # fmt: skip
    help_ = "it loads to accelerators only: list more of them"
    return (loses(NAME, "has no host memory for weights", away, help_),) if away else ()


def emit(plan: Plan) -> str:
    """Write ``gpu_split`` in GB and ``autosplit_reserve`` in MB, one of each a card."""
    accounts = [account for account in plan.ledger or _weights(plan) if is_accelerator(account.device)]
    split = [math.ceil(account.total / 1e8) / 10 for account in accounts]
    kept = [math.ceil((account.reserve + account.margin + account.runtime) / _MIB) for account in accounts]
    return f"gpu_split: {split}\nautosplit_reserve: {kept}\n"


def _weights(plan: Plan) -> list[Account]:
    """Return the weights of each device, for places a person wrote and nobody compiled."""
    tree, held = plan.tree, dict.fromkeys((device.name for device in plan.devices), 0)
    for tensor, unit in enumerate(unit_of_tensors(tree, plan.units) if tree is not None else ()):
        store = plan.units[unit].store
        if tree is not None and tree.nbytes is not None and store and tree.storages[tensor] == tensor:
            held[store] = held.get(store, 0) + tree.nbytes[tensor]
    return [Account(device, weights=nbytes) for device, nbytes in held.items()]


ENGINE = Engine(NAME, "budgets of cards", accepts, emit)

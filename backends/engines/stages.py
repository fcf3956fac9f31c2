"""Engines that take whole stages: mlx-lm, torchtitan (and NeMo), TabbyAPI, transformers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import partial

from ...ir import Diagnostic, Plan, human_size, is_accelerator, unit_of_tensors
from ..device_map import device_map_diagnostics, to_device_map
from .checks import cannot, layers_or_error, loses, misplaced, ranks_in_order, ranks_of, whole_layers
from .engine import Engine
from .pipeline_ranks import lines
from .stack import Stack

_MIB = 2**20


def _stages_in_order(engine: str, plan: Plan) -> tuple[Diagnostic, ...]:
    stack = layers_or_error(engine, plan)
    if isinstance(stack, Diagnostic):
        return (stack,)
    ranks = ranks_of(stack)
    found = (*ranks_in_order(engine, stack, ranks), *whole_layers(engine, stack), *_streamed(engine, stack))
    return found or tuple(_ends(engine, stack, ranks))


def _ends(engine: str, stack: Stack, ranks: list[str]) -> Iterator[Diagnostic]:
    yield from misplaced(engine, stack.before, ranks[0], "in its first stage")
    yield from misplaced(engine, stack.after, ranks[-1], "in its last stage")


def _streamed(engine: str, stack: Stack) -> Iterator[Diagnostic]:
    some = [layer for layer in stack.layers if layer.streamed]
    if some:
        total = human_size(sum(layer.nbytes for layer in some))
        why = f"it keeps whole stages on their accelerator; {len(some)} layers, {total}, are streamed"
        yield cannot(engine, f"to stream `{some[0].path}`", why, "list more memory, or more accelerators")


def _stack(plan: Plan) -> Stack:
    stack = layers_or_error("", plan)
    assert isinstance(stack, Stack)  # noqa: S101  accepted before
    return stack


def emit_mlx(plan: Plan) -> str:
    """Write the call; mlx-lm counts its ranks from the end of the model, rank 0 has the last layers."""
    counts = [count for _, count in _stack(plan).segments()]
    return f"model.pipeline(group, split={counts[::-1]})\n"


def emit_torchtitan(plan: Plan) -> str:
    """Write ``module_fqns_per_model_part``: the module paths of each stage, in order."""
    stack = _stack(plan)
    stages = [[layer.path for layer in stack.layers if layer.run == rank] for rank in ranks_of(stack)]
    stages[0][:0] = [part.path for part in stack.before]
    stages[-1] += [part.path for part in stack.after]
    return json.dumps({"module_fqns_per_model_part": stages}, indent=2) + "\n"


def tabby_accepts(plan: Plan) -> tuple[Diagnostic, ...]:
    """Say that budgets are all TabbyAPI is told: it fills the cards by itself."""
    if plan.tree is None or not plan.units or any(unit.store is None for unit in plan.units):
        stack = layers_or_error("tabbyapi", plan)
        return (stack,) if isinstance(stack, Diagnostic) else ()
    nbytes = plan.tree.nbytes or ()
    owner = unit_of_tensors(plan.tree, plan.units)
    away = sum(
        nbytes[tensor] for tensor, unit in enumerate(owner) if tensor == plan.tree.storages[tensor]
        and not is_accelerator(plan.units[unit].store or "")
    )  # fmt: skip
    help_ = "it loads to accelerators only: list more of them"
    return (loses("tabbyapi", "has no host memory for weights", away, help_),) if away else ()


def emit_tabby(plan: Plan) -> str:
    """Write ``gpu_split`` in GB and ``autosplit_reserve`` in MB, one of each a card."""
    accounts = [account for account in plan.ledger if is_accelerator(account.device)]
    split = [math.ceil(account.total / 1e8) / 10 for account in accounts]
    kept = [math.ceil((account.reserve + account.margin + account.runtime) / _MIB) for account in accounts]
    return f"gpu_split: {split}\nautosplit_reserve: {kept}\n"


def emit_transformers(plan: Plan) -> str:
    """Write the call of ``from_pretrained`` with the plan's map."""
    return f"AutoModelForCausalLM.from_pretrained(FOLDER, device_map={json.dumps(to_device_map(plan))})\n"


ENGINES = (
    Engine("mlx-lm", "layers a rank", partial(_stages_in_order, "mlx-lm"), emit_mlx, lines=lines),
    Engine(
        "torchtitan", "modules a stage", partial(_stages_in_order, "torchtitan"), emit_torchtitan, lines=lines
    ),
    Engine("tabbyapi", "budgets of cards", tabby_accepts, emit_tabby),
    Engine("transformers", "the device of every module", device_map_diagnostics, emit_transformers),
)

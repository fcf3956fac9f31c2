"""mlx-lm: layers a rank, by the argument of its models' ``pipeline``; ranks are counted from the end."""

from __future__ import annotations

from functools import partial

from ...ir import Plan
from .checks import lines
from .engine import Engine
from .stages import placed_stack, stages_in_order

NAME = "mlx-lm"


def emit(plan: Plan) -> str:
    """Write the call; rank 0 has the last layers."""
    counts = [count for _, count in placed_stack(plan).segments()]
    return f"model.pipeline(group, split={counts[::-1]})\n"


ENGINE = Engine(NAME, "layers a rank", partial(stages_in_order, NAME), emit, lines=lines)

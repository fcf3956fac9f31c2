"""What engines that take whole stages share: layers in one run a stage, the ends of the model at its ends."""

from __future__ import annotations

from collections.abc import Iterator

from ...ir import Diagnostic, Plan, human_size
from .checks import cannot, layers_or_error, misplaced, ranks_in_order, ranks_of, whole_layers
from .stack import Stack


def stages_in_order(engine: str, plan: Plan) -> tuple[Diagnostic, ...]:
    """Say what of a plan cannot be told as one run of whole layers a stage."""
    stack = layers_or_error(engine, plan)
    if isinstance(stack, Diagnostic):
        return (stack,)
    ranks = ranks_of(stack)
    found = (*ranks_in_order(engine, stack, ranks), *whole_layers(engine, stack), *_streamed(engine, stack))
    return found or tuple(_ends(engine, stack, ranks))


def placed_stack(plan: Plan) -> Stack:
    """Return the layers of a plan that was accepted."""
    stack = layers_or_error("", plan)
    assert isinstance(stack, Stack)  # noqa: S101  accepted before
    return stack


def stages_of(plan: Plan) -> list[list[str]]:
    """Return the module paths of each stage, in order."""
    stack = placed_stack(plan)
    stages = [[layer.path for layer in stack.layers if layer.run == rank] for rank in ranks_of(stack)]
    stages[0][:0] = [part.path for part in stack.before]
    stages[-1] += [part.path for part in stack.after]
    return stages


def _ends(engine: str, stack: Stack, ranks: list[str]) -> Iterator[Diagnostic]:
    yield from misplaced(engine, stack.before, ranks[0], "in its first stage")
    yield from misplaced(engine, stack.after, ranks[-1], "in its last stage")


def _streamed(engine: str, stack: Stack) -> Iterator[Diagnostic]:
    some = [layer for layer in stack.layers if layer.streamed]
    if some:
        total = human_size(sum(layer.nbytes for layer in some))
        why = f"it keeps whole stages on their accelerator; {len(some)} layers, {total}, are streamed"
        yield cannot(engine, f"to stream `{some[0].path}`", why, "list more accelerators, or larger ones")

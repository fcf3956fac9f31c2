"""Running passes: one loop that checks what a pass needs, verifies what it returns, and reports.

A pass is a frozen dataclass whose fields are its options. ``run`` returns a new plan, adds what it
has to say to ``diagnostics``, and touches nothing else: no clock, no environment, no device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import ClassVar, Protocol

from ...ir import Diagnostics, Plan, unit_of_tensors, verify
from ...ir.rules.laws import TENSOR_WITHOUT_PLACE


class Fact(StrEnum):
    """What may be true of a plan on its way through the pipeline."""

    SIZED = "sized"
    """Every tensor has its bytes."""
    TIED = "tied"
    """Tie groups are known."""
    OPENABLE = "openable"
    """The initial units are there and it is known which of them may be opened."""
    PLACED = "placed"
    """Every unit has a place."""


class Pass(Protocol):
    """One step from plan to plan."""

    name: ClassVar[str]
    needs: ClassVar[frozenset[Fact]]
    gives: ClassVar[frozenset[Fact]]

    def run(self, plan: Plan, diagnostics: Diagnostics) -> Plan:
        """Return the plan after this step."""
        ...


class PipelineError(Exception):
    """A list of passes cannot work: one of them needs a fact that none before it gives."""

    def __init__(self, step: Pass, missing: Fact) -> None:
        super().__init__(f"pass `{step.name}` needs a plan that is {missing}")
        self.missing = missing


class BrokenPassError(Exception):
    """A pass did not do what it promises: a bug of ours, whatever the input was."""


def holds(fact: Fact, plan: Plan) -> bool:
    """Say whether a fact is true of a plan; of a plan without a model, which is judged by its lines."""
    tree = plan.tree
    if tree is None:
        return fact is Fact.PLACED and all(unit.store is not None for unit in plan.units)
    match fact:
        case Fact.SIZED:
            return tree.nbytes is not None
        case Fact.TIED:
            group = {path: tie for tie in plan.ties for path in tie.tensors}
            shared = ((i, first) for i, first in enumerate(tree.storages) if i != first)
            return all(
                group.get(tree.tensor_paths[i], i) == group.get(tree.tensor_paths[first])
                for i, first in shared
            )
        case Fact.OPENABLE:
            return -1 not in unit_of_tensors(tree, plan.units)
        case Fact.PLACED:
            everywhere = all(unit.store is not None for unit in plan.units)
            return everywhere and -1 not in unit_of_tensors(tree, plan.units)


def _ignore(_pass: Pass, _plan: Plan) -> None:
    return None


def run_passes(
    plan: Plan,
    passes: Iterable[Pass],
    diagnostics: Diagnostics,
    after: Callable[[Pass, Plan], None] = _ignore,
) -> Plan:
    """Run passes in order and return the last plan; stops early when a pass reports an error.

    ``after`` is called with each pass and its result; printing and timing hang on it.
    """
    placed = False
    for step in passes:
        for fact in sorted(step.needs):
            if not holds(fact, plan):
                raise PipelineError(step, fact)
        plan = step.run(plan, diagnostics)
        if diagnostics.errors:
            break
        placed = placed or Fact.PLACED in step.gives
        # Before placing, units may be the pins alone, and pins need not cover the model.
        broken = [law.message for law in verify(plan) if placed or law.rule is not TENSOR_WITHOUT_PLACE]
        promised = sorted(step.gives) if plan.tree is not None else ()
        broken += [f"it is not {fact}" for fact in promised if not holds(fact, plan)]
        if broken:
            msg = f"pass `{step.name}` broke the plan: {'; '.join(broken)}"
            raise BrokenPassError(msg)
        after(step, plan)
    return plan

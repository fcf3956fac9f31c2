"""Running passes: one loop that checks what a pass needs, verifies what it returns, and reports.

A pass is a frozen dataclass whose fields are its options. ``run`` returns a new plan, adds what it
has to say to ``diagnostics``, and touches nothing else: no clock, no environment, no device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import ClassVar, Protocol

from ...ir import Diagnostics, Plan, verify
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
    """The list of passes cannot work: a bug of ours, or a wrong ``--passes``."""


def _holds(fact: Fact, plan: Plan) -> bool:
    match fact:
        case Fact.SIZED:
            return plan.tree is not None and plan.tree.nbytes is not None
        case Fact.TIED | Fact.OPENABLE:
            return plan.tree is not None
        case Fact.PLACED:
            return all(unit.store is not None for unit in plan.units)


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
        missing = [fact for fact in sorted(step.needs) if not _holds(fact, plan)]
        if missing:
            msg = f"pass `{step.name}` needs a plan that is {', '.join(missing)}"
            raise PipelineError(msg)
        plan = step.run(plan, diagnostics)
        if diagnostics.errors:
            break
        placed = placed or Fact.PLACED in step.gives
        # Before placing, units may be the pins alone, and pins need not cover the model.
        broken = [law for law in verify(plan) if placed or law.rule is not TENSOR_WITHOUT_PLACE]
        if broken:
            msg = f"pass `{step.name}` broke the plan: " + "; ".join(d.message for d in broken)
            raise PipelineError(msg)
        after(step, plan)
    return plan

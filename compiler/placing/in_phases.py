"""Which phase needs what: a `phase` line names what is in use at one time, other lines at other times.

What no line names, or several do, is in use all the time. So is what is needed above the parts a line names.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from ...ir import ModuleTree, Phase, Plan
from ...ir.patterns import match_paths

ALWAYS: Final = -1
"""In place of a phase's number: in use all the time."""


def phase_lines(plan: Plan) -> tuple[Phase, ...]:
    """Return the phases of a plan, in the order of their lines; their place here is their number."""
    return tuple(rule for rule in plan.constraints if isinstance(rule, Phase))


class Phases:
    """The phases of a plan over its tree."""

    def __init__(self, plan: Plan, tree: ModuleTree) -> None:
        self.lines = phase_lines(plan)
        self._tree = tree
        self._of_tensor = _by_tensor(self.lines, tree) if self.lines else ()

    def of_tensors(self, tensors: Iterable[int]) -> int:
        """Return the one phase that tensors are in use in."""
        return one_phase(self._of_tensor[tensor] for tensor in tensors) if self.lines else ALWAYS

    def of_path(self, path: str) -> int:
        """Return the one phase that a module or tensor is in use in."""
        return self.of_tensors(self._tree.covered(path)) if self.lines else ALWAYS

    def name(self, phase: int) -> str:
        """Return what people call a phase; nothing where it is all the time."""
        return "" if phase == ALWAYS else " ".join(self.lines[phase].patterns)


def one_phase(phases: Iterable[int]) -> int:
    """Return what all of them are, or all the time."""
    found = set(phases)
    return found.pop() if len(found) == 1 else ALWAYS


def _by_tensor(lines: Sequence[Phase], tree: ModuleTree) -> list[int]:
    found: list[int | None] = [None] * len(tree.tensor_names)
    for number, line in enumerate(lines):
        named = (path for pattern in line.patterns for path in match_paths(tree, pattern))
        for tensor in {tensor for path in named for tensor in tree.covered(path)}:
            found[tensor] = number if found[tensor] is None else ALWAYS
    return [ALWAYS if phase is None else phase for phase in found]

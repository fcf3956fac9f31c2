"""What can be said against a text without its model: its own paths, taken as a small model.

A path that contains no other path of the text stands for one tensor. What contradicts itself in that
model does so in every model that has these paths; what depends on more is left to the real model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from ...grammar import parse
from ...grammar.words import path_of, spell_path
from ...ir import (
    Atomic,
    Constraint,
    Diagnostic,
    Diagnostics,
    ModuleTree,
    Never,
    Phase,
    Plan,
    Split,
    Together,
)
from .binding import bind_units
from .contradictions import check_pins

_MOST_PATHS: Final = 20_000


def contradictions_of_text(plan: Plan) -> tuple[Diagnostic, ...]:
    """Return the contradictions between lines that can be seen without the model."""
    rules = tuple(rule for rule in plan.constraints if not (isinstance(rule, Atomic) and rule.by_class))
    units = [unit for unit in plan.units if unit.store is not None]
    paths = {path for rule in rules for path in _paths(rule)} | {unit.path for unit in units}
    tied = {path for tie in plan.ties for path in tie.tensors}
    if not (rules or tied) or len(paths) + len(tied) > _MOST_PATHS:
        return ()
    opened = [rule.pattern for rule in rules if isinstance(rule, Split)]
    tree = _sketch(paths, tied, opened, plan)
    # What names nothing in the sketch may name something in the model: nothing is said about it.
    pins = bind_units(tree, units, plan.devices)
    found = Diagnostics()
    check_pins(replace(plan, tree=tree, constraints=rules), pins.units, pins.owners, found)
    return tuple(found)


def _paths(rule: Constraint) -> tuple[str, ...]:
    match rule:
        case Atomic(target):
            return (target,)
        case Split(pattern) | Never(pattern):
            return (pattern,)
        case Together(patterns) | Phase(patterns):
            return patterns


def _sketch(paths: set[str], tied: set[str], opened: Sequence[str], plan: Plan) -> ModuleTree:
    """Build the smallest model that has these paths: one tensor in each that contains no other."""
    named = {path for path in paths | tied if path and "*" not in path}
    above = {path[:at] for path in named for at, char in enumerate(path) if char == "."}
    rows = []
    for path in sorted(named - above):
        if path in opened:
            rows += [f"{path}.0.weight"]
        else:
            rows += [path if path in tied else f"{path}.weight"]
    text = "".join(f"parameter {spell_path(path_of(row))} : uint8[1]\n" for row in rows)
    tree = parse(text + _tie_lines(plan)).tree
    return tree if tree is not None else _empty()


def _tie_lines(plan: Plan) -> str:
    sides = (map(spell_path, map(path_of, tie.tensors)) for tie in plan.ties)
    return "".join(f"tie {' = '.join(side)}\n" for side in sides)


def _empty() -> ModuleTree:
    return ModuleTree(("",), ("Module",), (-1,), (1,), (0, 0), (), (), (), (), ())

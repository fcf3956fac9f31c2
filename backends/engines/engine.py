"""What an engine is to a plan: what it can take of it, how it is told, and how its own words are read.

The three words are those of a chain of reductions: `accepts` says what would be lost before anything
is written, `emit` writes it, `read` goes the other way where the engine prints a split of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...ir import Diagnostic, Plan, Workload


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine that does its own loading. ``emit`` and ``read`` are pure: text in, text out."""

    name: str
    """What ``--for`` calls it."""
    says: str
    """What of a plan it can be told, in a few words for people."""
    accepts: Callable[[Plan], tuple[Diagnostic, ...]]
    """Errors where the engine would do something else, warnings with bytes for what is lost."""
    emit: Callable[[Plan], str]
    """What to type or paste; for a plan that `accepts` finds no error in."""
    read: Callable[[str, Plan], Plan] | None = None
    """What the engine's own planner printed, for a model with its module table; raises `PlanError`."""
    asks: Callable[[str], Workload | None] | None = None
    """The workload that what it printed is for, known before the model is read."""
    file: Callable[[Plan], str] | None = None
    """What goes into a file of the engine's own, where it has one."""
    lines: Callable[[Plan], str] | None = None
    """``.plan`` lines that keep a compilation within what the engine can say; None: it can say anything."""
    layouts: Callable[[Plan], list[str]] | None = None
    """For a placed plan with something `accepts` refuses: layouts of its model that the engine can be told,
    as ``.plan`` lines that place, the one that keeps most on accelerators first."""

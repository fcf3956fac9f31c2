"""Units with visited parts: where what belongs to no part of them is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from ...ir import ModuleTree, Unit, homes_of, is_within

Label = TypeVar("Label")


def spans_of(tree: ModuleTree, units: Sequence[Unit]) -> list[tuple[range, str | None]]:
    """Return the tensors of each unit with visited parts and where it runs, the smallest first."""
    homes = dict.fromkeys(homes_of(tree, units).values())
    return sorted(
        ((tree.covered(units[home].path), units[home].run) for home in homes), key=lambda s: len(s[0])
    )


def callers_of(tree: ModuleTree, units: Sequence[Unit], called: Callable[[int], bool]) -> dict[int, int]:
    """Return for each visited unit the one its results go back to, both by index.

    A list of modules is never called itself: what is in it is called by what is around the list.
    """
    homes = homes_of(tree, units)
    found = dict[int, int]()
    for unit, entered in homes.items():
        caller, home = tree.parents[tree.module_index[units[unit].path]], entered
        while caller > 0 and not called(caller):
            caller = tree.parents[caller]
        while home in homes and not is_within(tree.paths[caller], units[home].path):
            home = homes[home]
        found[unit] = home
    return found


def run_around(spans: Sequence[tuple[range, Label]], tensors: Sequence[int], default: Label) -> Label:
    """Return where the smallest unit with visited parts runs that has all these tensors."""
    inside = ((span, run) for span, run in spans if tensors and tensors[0] in span and tensors[-1] in span)
    return next((run for _, run in inside), default)

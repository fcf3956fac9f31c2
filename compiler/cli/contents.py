"""What is on a device in words: ranges, what is elsewhere of them, and where it runs."""

from __future__ import annotations

from collections.abc import Iterator

from ...grammar.path_sets import fold_set
from ...ir import Plan, homes_of, unit_of_tensors
from ...ir.visible import visible


class Contents:
    """The units of a plan by device, worked out once."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._by_store: dict[str | None, dict[str | None, list[str]]] = {}
        self._apart: dict[tuple[str | None, str | None], list[str]] = {}
        self.nbytes = unit_sizes(plan)
        """Bytes of each unit without the parts of it that are elsewhere; None where they are not known."""
        for unit in plan.units:
            self._by_store.setdefault(unit.store, {}).setdefault(unit.run, []).append(unit.path)
        homes = {} if plan.tree is None else homes_of(plan.tree, plan.units)
        for part, home in homes.items():
            outer, inner = plan.units[home], plan.units[part]
            if inner.store != outer.store:
                self._apart.setdefault((outer.store, outer.run), []).append(inner.path)

    def words(self, device: str) -> Iterator[str]:
        """Yield patterns of what is stored on a device; what runs elsewhere comes after, and says so."""
        for run, paths in self._by_store.get(device, {}).items():
            words = ", ".join(visible(each.text) for each in fold_set(paths))
            apart = fold_set(self._apart.get((device, run), ()))
            if apart:
                words += f", but not {', '.join(visible(each.text) for each in apart)}"
            yield words if run in {None, device} else f"{words} run on {run}"

    def off_accelerators(self, accelerators: frozenset[str]) -> tuple[int, int | None]:
        """Return how many units are stored on none of these devices, and their bytes if those are known."""
        off = [i for i, unit in enumerate(self._plan.units) if unit.store not in {None, *accelerators}]
        return len(off), None if self.nbytes is None else sum(self.nbytes[i] for i in off)


def unit_sizes(plan: Plan) -> list[int] | None:
    """Return the bytes of each unit where it is stored; None when the plan does not know."""
    tree = plan.tree
    if tree is None or tree.nbytes is None:
        return None
    sizes = [0] * (len(plan.units) + 1)
    for owner, nbytes in zip(unit_of_tensors(tree, plan.units), tree.nbytes, strict=True):
        sizes[owner] += nbytes
    return sizes[:-1]

"""The units of a plan as `place` and `unit` lines, with sizes, ties and reasons as comments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from ..ir import Plan, Reason, Unit, human_size
from ..ir.visible import visible
from ..ir.wording import joined_words
from .ranges import fold_paths
from .syntax import Line, Path, PlaceLine, UnitLine, Word

_WRITTEN = frozenset({None, Reason.WRITTEN})
_UNREMARKABLE = _WRITTEN | {Reason.GREEDY, Reason.ADDED}


def place_lines(plan: Plan) -> Iterator[Line]:
    """Write every unit, consecutive ones with the same place as ranges."""
    comments = _Comments(plan)
    for _, group in groupby(plan.units, lambda unit: (unit.store, unit.run, unit.reason, unit.by_rows)):
        run = [*group]
        start = 0
        for folded in fold_paths([unit.path for unit in run]):
            members = run[start : start + folded.count]
            yield _line(folded.path, members[0], comments.of(members))
            start += folded.count


def _line(path: Path, unit: Unit, comment: str) -> Line:
    if unit.store is None:
        return Line(UnitLine(path), suffix=comment)
    run = None if unit.run in {None, unit.store} and not unit.by_rows else Word(unit.run or unit.store)
    added = unit.reason not in _WRITTEN
    return Line(PlaceLine(path, Word(unit.store), run, unit.by_rows, added), suffix=comment)


class _Comments:
    """What can be said about units of one plan; nothing without its module tree."""

    def __init__(self, plan: Plan) -> None:
        self._tree = plan.tree
        self._partners = _partners(plan)

    def of(self, units: Sequence[Unit]) -> str:
        notes = [*self._sizes(units)]
        if len(units) == 1:
            partners = self._partners.get(units[0].path, ())
            notes += [f"tied to {joined_words(partners)}"] if partners else []
        reason = units[0].reason
        notes += [reason.value] if reason is not None and reason not in _UNREMARKABLE else []
        return f"# {visible(', '.join(notes))}" if notes else ""

    def _sizes(self, units: Sequence[Unit]) -> Iterator[str]:
        tree = self._tree
        if tree is None or tree.nbytes is None:
            return
        prefix = tree.prefix_bytes
        spans = [tree.covered(unit.path) for unit in units]
        sizes = [prefix[span.stop] - prefix[span.start] for span in spans]
        if len(sizes) == 1:
            yield human_size(sizes[0])
        elif len(set(sizes)) == 1:
            yield f"{len(sizes)} x {human_size(sizes[0])}"
        else:
            yield f"{len(sizes)} units, {human_size(sum(sizes))}"


def _partners(plan: Plan) -> dict[str, tuple[str, ...]]:
    """Return, for units that share storage with others, the printable paths of those."""
    units = {unit.path for unit in plan.units}
    partners: dict[str, dict[str, None]] = {}
    for tie in plan.ties:
        owners = dict.fromkeys(filter(None, (_owner(path, units) for path in tie.tensors)))
        for owner in owners if len(owners) > 1 else ():
            found = partners.setdefault(owner, {})
            found.update({other: None for other in owners if other != owner and other.isprintable()})
    return {path: tuple(found) for path, found in partners.items()}


def _owner(path: str, units: set[str]) -> str | None:
    while path and path not in units:
        path = path.rpartition(".")[0]
    return path or None

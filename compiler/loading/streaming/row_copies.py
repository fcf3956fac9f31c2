"""Copies of rows: those of all tables in one go, those side by side in one piece."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

from ...machine.pages import Ahead
from ..ring import Mark
from .row_views import RowViews
from .streamed import Streamed

if TYPE_CHECKING:
    from .courier import Pair
    from .lanes import Lane

Place: TypeAlias = tuple[int, int]
"""A row at rest, and which row it becomes."""


def send(
    lane: Lane, room: Sequence[tuple[Streamed, RowViews]], places: Sequence[Place], after: Sequence[Mark]
) -> Mark:
    """Copy rows of tensors at rest to their places; returns the mark of the copies."""
    known = [(one, rows) for one, rows in room if _is_known(one)]
    others = [(one, rows) for one, rows in room if not _is_known(one)]
    after = [lane.copy(_side_by_side(known, places), after)] if known or not others else after
    if not others:
        return after[0]
    chosen = [row for row, _ in places]
    with Ahead(span for one, _ in others if one.pieces is not None for span in one.pieces.spans(chosen)):
        return lane.carry(_brought(others, places), after)


def rows_at_hand(one: Streamed, places: Sequence[Place], rows: RowViews) -> Iterator[Pair]:
    """Yield rows of a tensor as they rest, with their places; what is in files is in memory by then."""
    if one.pieces is not None:
        yield from one.pieces.brought([(row, rows.take(place, 1)) for row, place in places])
        return
    nbytes = one.rest.nbytes // max(1, len(one.rest))
    for row, place in places:
        if one.mapped is not None:
            one.mapped.bring_all(row * nbytes, nbytes)
        yield one.rows.take(row, 1), rows.take(place, 1)


def _is_known(one: Streamed) -> bool:
    return one.block is not None and one.block.pinned and one.dtype == one.rest.dtype


def _brought(others: Sequence[tuple[Streamed, RowViews]], places: Sequence[Place]) -> Iterator[Pair]:
    for one, rows in others:
        yield from rows_at_hand(one, places, rows)


def _side_by_side(known: Sequence[tuple[Streamed, RowViews]], places: Sequence[Place]) -> Iterator[Pair]:
    for (row, place), count in _runs(places):
        for one, rows in known:
            yield one.rows.take(row, count), rows.take(place, count)


def _runs(places: Sequence[Place]) -> list[tuple[Place, int]]:
    """Return where consecutive rows with consecutive places begin, and how many they are."""
    starts = [
        number
        for number, (row, place) in enumerate(places)
        if not number or places[number - 1] != (row - 1, place - 1)
    ]
    return [
        (places[start], end - start) for start, end in zip(starts, [*starts[1:], len(places)], strict=True)
    ]

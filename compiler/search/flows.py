"""What the parts of a model hand each other: tensors, as a trace tells them, in the grains of a search."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from .problem import Handover


class Flow(NamedTuple):
    """A tensor that one part of a model makes and others take."""

    source: str
    """Path of the module whose work makes it, or of the tensor it is."""
    targets: tuple[str, ...]
    nbytes: float
    """Bytes for each token that is read; for a forward of a model that reads none."""


def handovers_of(flows: Iterable[Flow], grain_of: Callable[[str], int | None]) -> tuple[Handover, ...]:
    """Return the flows between different grains; what goes the same way together is one handover."""
    added: dict[tuple[int, tuple[int, ...]], float] = {}
    for flow in flows:
        source = grain_of(flow.source)
        targets = {grain for path in flow.targets if (grain := grain_of(path)) is not None}
        if source is not None and targets - {source}:
            key = source, tuple(sorted(targets - {source}))
            added[key] = added.get(key, 0.0) + flow.nbytes
    return tuple(Handover(source, targets, nbytes) for (source, targets), nbytes in added.items())

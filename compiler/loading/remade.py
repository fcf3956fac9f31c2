"""Tensors on disk that a checkpoint stores in another form: they are made anew whenever they are used.

A fused projection that the class has as three, halves in another order: the files are never written, so
what transformers' own rules make of them on loading is made each time the module runs.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .asked import is_plain_float
from .conversions import Merge
from .matching import stored_dtype
from .pieces import Pair
from .seats import Slot
from .stored_files import Mapped, OpenFiles

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True, slots=True)
class Remade:
    """One tensor that a rule makes of others, which are in files."""

    shape: torch.Size
    dtype: torch.dtype
    """What it is used in: rules that compute are given their values in it, as when a model is loaded."""
    path: str
    """Which of the tensors that the rule makes."""
    merge: Merge
    sources: tuple[Mapped, ...]
    model: weakref.ref[nn.Module]
    """What some rules ask for shapes and settings; it holds this one."""

    def made(self) -> torch.Tensor:
        """Return the tensor, made anew."""
        values: list[torch.Tensor] = []
        for mapped in self.sources:
            mapped.bring_all(0, mapped.tensor.nbytes)
            converts = is_plain_float(mapped.tensor.dtype) and is_plain_float(self.dtype)
            values.append(mapped.tensor.to(self.dtype if converts else mapped.tensor.dtype, copy=True))
        made = self.merge.run(values, self.model())
        return made[self.path].to(self.dtype).contiguous()

    def pairs(self, room: torch.Tensor) -> Iterator[Pair]:
        """Yield the tensor with its place, memory of its shape."""
        yield self.made(), room

    def brought(self, rows: Iterable[tuple[int, torch.Tensor]]) -> Iterator[Pair]:
        """Yield rows with their places; all there are are made for them, once."""
        made = self.made()
        yield from ((made[row], target) for row, target in rows)

    def files(self, _rows: Iterable[int] | None = None) -> list[Mapped]:
        """Return everything it is made of."""
        return list(self.sources)


def remade(merge: Merge, slot: Slot, path: str, files: OpenFiles, model: nn.Module) -> Remade:
    """Return a slot's tensor as one that stays in its files."""
    sources = (files.mapped(source, stored_dtype(source) or slot.dtype) for _, source in merge.sources)
    return Remade(slot.tensor.shape, slot.dtype, path, merge, tuple(sources), weakref.ref(model))

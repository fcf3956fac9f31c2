"""Tensors made of others, as libraries for quantisation have them: packed numbers with scales.

One is taken apart into plain tensors, which rest, travel and are counted as any others, and is put
together again from wherever those are. What it is besides them is its context, which its class knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


@dataclass(frozen=True, slots=True)
class Compound:
    """How a tensor is made of others, some of which may be made of others again."""

    kind: Any
    """Its class, which puts it together."""
    context: Any
    inner: Mapping[str, torch.Tensor | Compound]
    shape: torch.Size
    stride: tuple[int, ...]
    parameter: bool
    trained: bool
    """Whether it asks for gradients."""

    @property
    def leaves(self) -> tuple[torch.Tensor, ...]:
        """The plain tensors it is made of, in the order it is put together from them."""
        found: list[torch.Tensor] = []
        for one in self.inner.values():
            found += one.leaves if isinstance(one, Compound) else (one,)
        return tuple(found)

    @property
    def nbytes(self) -> int:
        """Bytes of all that it is made of."""
        return sum(leaf.nbytes for leaf in self.leaves)

    def made_of(self, leaves: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return such a tensor of other leaves, given in the same order."""
        return self._made(iter(leaves))

    def _made(self, leaves: Iterator[torch.Tensor]) -> torch.Tensor:
        inner = {
            name: one._made(leaves) if isinstance(one, Compound) else next(leaves)  # noqa: SLF001
            for name, one in self.inner.items()
        }
        made: torch.Tensor = self.kind.__tensor_unflatten__(inner, self.context, self.shape, self.stride)
        return nn.Parameter(made, requires_grad=self.trained) if self.parameter else made


def taken_apart(tensor: torch.Tensor) -> Compound | None:
    """Return what a tensor is made of; None for a plain one."""
    if not is_traceable_wrapper_subclass(tensor):
        return None
    names, context = tensor.__tensor_flatten__()
    values = {name: getattr(tensor, name) for name in names}
    inner = {name: taken_apart(value) or value.detach() for name, value in values.items()}
    marks = isinstance(tensor, nn.Parameter), tensor.requires_grad
    return Compound(type(tensor), context, inner, tensor.shape, tensor.stride(), *marks)

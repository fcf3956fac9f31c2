"""Rows of a stack, by their numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import torch

_FEW: Final = 1024
"""Rows up to which each has a view of its own: of a mixture, not of a vocabulary."""


class RowViews:
    """The rows of a stack; a view of each is made once where there are few."""

    def __init__(self, stack: torch.Tensor) -> None:
        self.stack = stack
        self._each = stack.unbind() if len(stack) <= _FEW else None

    def take(self, first: int, count: int) -> torch.Tensor:
        """Return some rows: one without its dimension, or several."""
        if count > 1:
            return self.stack[first : first + count]
        return self.stack[first] if self._each is None else self._each[first]

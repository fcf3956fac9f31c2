"""Backward passes through streamed weights: refused by name, since the weights are no longer there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import torch

from ....ir import Diagnostic, PlanError
from ....ir.rules.loading import TRAINING_WHILE_STREAMING
from ..moves import every_tensor

if TYPE_CHECKING:
    from .site import Site


def keep_from_training(site: Site, output: object) -> None:
    """Let a backward pass from a site's output fail, if what it was computed with has gone."""
    if torch.is_grad_enabled() and any(one.moves for one in site.streamed):
        for tensor in every_tensor(output):
            if tensor.requires_grad:
                tensor.register_hook(_Refusal(site.path))  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class _Refusal:
    path: str

    def __call__(self, _gradient: torch.Tensor) -> NoReturn:
        message = (
            f"the weights of `{self.path or '.'}` were streamed, and are gone when its backward needs them"
        )
        help_ = "train by a plan that streams nothing: compile it with `offload='compute'`"
        raise PlanError([Diagnostic(TRAINING_WHILE_STREAMING, message, help=help_)])

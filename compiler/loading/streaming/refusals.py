"""What a streamed model is kept from: copies, forked processes, forwards with tensors that have no values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ....ir import Diagnostic, PlanError
from ....ir.rules.loading import COPIED_WHILE_STREAMING, FAKED_WHILE_STREAMING, FORKED_WHILE_STREAMING

if TYPE_CHECKING:
    from .site import Site

_FAKE = torch._C._TorchDispatchModeKey.FAKE  # noqa: SLF001


def copied(site: Site) -> PlanError:
    """Return that a model cannot be copied or pickled: its hooks have the stream."""
    message = f"`{site.path or '.'}` is streamed, so the model cannot be copied or pickled"
    help_ = "load another model by the same plan, save its `state_dict()`, or call `release_model` first"
    return PlanError([Diagnostic(COPIED_WHILE_STREAMING, message, help=help_)])


def forked(device: torch.device) -> PlanError:
    """Return that a card cannot be used here."""
    message = f"this process was forked from the one that loaded the model onto `{device}`"
    help_ = "start processes with `spawn`, or load the model after forking"
    return PlanError([Diagnostic(FORKED_WHILE_STREAMING, message, help=help_)])


def refuse_fakes(site: Site) -> None:
    """Raise `PlanError` where all tensors that are made have no values: memory made now would stay so."""
    if torch._C._get_dispatch_mode(_FAKE) is not None:  # noqa: SLF001
        message = f"`{site.path or '.'}` is streamed, and this forward works with tensors that have no values"
        help_ = "trace or export the model before it is loaded, or call `release_model` first"
        raise PlanError([Diagnostic(FAKED_WHILE_STREAMING, message, help=help_)])

"""What a streamed model is kept from: copies, forked processes, forwards that are recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.fx import _symbolic_trace

from ....ir import Diagnostic, PlanError
from ....ir.rules.loading import (
    COPIED_WHILE_STREAMING,
    FAKED_WHILE_STREAMING,
    FOREIGN_HOOKS,
    FORKED_WHILE_STREAMING,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

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


def refuse_recording(site: Site) -> None:
    """Raise `PlanError` where a forward is recorded, or all tensors that are made have no values.

    Memory made now would have none for ever; a record would have memory that is others' soon.
    """
    fake = torch._C._get_dispatch_mode(_FAKE) is not None  # noqa: SLF001
    symbols = _symbolic_trace._is_fx_tracing_flag  # noqa: SLF001
    if fake or symbols or torch._C._is_tracing():  # noqa: SLF001
        how = "works with tensors that have no values" if fake else "is recorded, to be repeated without it"
        message = f"`{site.path or '.'}` is streamed, and this forward {how}"
        help_ = "trace or export the model before it is loaded, or call `release_model` first"
        raise PlanError([Diagnostic(FAKED_WHILE_STREAMING, message, help=help_)])


def refuse_foreign_hooks(path: str, above: Sequence[nn.Module]) -> None:
    """Raise `PlanError` where accelerate has taken the values of a loaded module for its own hooks."""
    if any("_hf_hook" in module.__dict__ for module in above):
        message = f"accelerate moves the weights of `{path or '.'}` since the model was loaded"
        help_ = (
            "call `accelerate.hooks.remove_hook_from_submodules(model)` to go on by the plan, "
            "or `release_model(model)` to leave it to accelerate"
        )
        raise PlanError([Diagnostic(FOREIGN_HOOKS, message, help=help_)])

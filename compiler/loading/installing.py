"""The one step that changes a model: staged tensors take the places of those it had."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from .seats import Slot, live_modules
from .stacked import Stacked
from .staging import Staged


def installed(model: nn.Module, slots: Sequence[Slot], staged: Staged) -> dict[str, torch.Tensor]:
    """Put the staged tensors into the model; returns the registered objects by first path.

    A parameter that was real stays the same object, so that optimizers keep it, where torch can give it the
    new memory: on the same kind of device, and in pieces before and after or neither.
    """
    modules = live_modules(model)
    objects = {slot.paths[0]: _object(slot, staged.tensors[slot.paths[0]]) for slot in slots}
    for slot in slots:
        for target, source in staged.fills.pop(slot.paths[0], ()):
            target.copy_(source)
        value = objects[slot.paths[0]]
        if value is slot.tensor and slot.compound is None:
            value.data = staged.tensors[slot.paths[0]]
        for path in slot.live:
            table, name = registration(modules, path)
            table[name] = value
    return objects


def _object(slot: Slot, value: torch.Tensor) -> torch.Tensor:
    before = slot.tensor
    if slot.compound is not None:
        return value
    stays = isinstance(before, Stacked) == isinstance(value, Stacked)  # what is in pieces has no memory
    if stays and not before.is_meta and before.device.type == value.device.type:
        return before
    if not isinstance(before, nn.Parameter):
        return value.data  # not a view: torch.compile compares a view with what it is a view of
    parameter = nn.Parameter(value, requires_grad=before.requires_grad)
    for name, mark in before.__dict__.items():
        setattr(parameter, name, mark)
    return parameter


def registration(modules: Mapping[str, nn.Module], path: str) -> tuple[dict[str, Any], str]:
    """Return the table of a module that a tensor is registered in, and its name there."""
    owner, _, name = path.rpartition(".")
    parameters: dict[str, Any] = modules[owner]._parameters  # noqa: SLF001
    return (parameters if name in parameters else modules[owner]._buffers), name  # noqa: SLF001

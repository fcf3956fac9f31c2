"""Tensors that modules hold as plain attributes: no checkpoint has them, and torch moves none of them.

A loader that moves their modules has to: they go where their module runs, and stay there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ...ir import ModuleTree
from ..running.homes import run_around
from ..running.sites import tensors_beside
from .streaming.streamed import Home

if TYPE_CHECKING:
    from torch import nn


def hook_that_makes(module: nn.Module, name: str) -> Any:  # noqa: ANN401  # a hook of any signature
    """Return the module's own hook that makes an attribute before each forward; None where none does.

    `torch.nn.utils` has three kinds, for weight norm, spectral norm and pruning. They know the name.
    """
    hooks = module._forward_pre_hooks.values()  # noqa: SLF001
    names = ((hook, (getattr(hook, "name", None), getattr(hook, "_tensor_name", None))) for hook in hooks)
    return next((hook for hook, made in names if name in made), None)


def made_by_hooks(module: nn.Module) -> Iterator[tuple[dict[str, Any], str, torch.Tensor]]:
    """Yield the attributes at or below a module that hooks make before each forward, as they are now."""
    for part in module.modules():
        for name, value in attributes_of(part):
            if hook_that_makes(part, name) is not None:
                yield part.__dict__, name, value


def attributes_of(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors a module holds as plain attributes."""
    for name, value in list(module.__dict__.items()):
        if isinstance(value, torch.Tensor):
            yield name, value


def place_attributes(
    tree: ModuleTree,
    live: Sequence[nn.Module],
    runs: Mapping[int, torch.device],
    loaded: Mapping[int, torch.Tensor],
    spans: Sequence[tuple[range, torch.device]] = (),
) -> dict[int, list[Home]]:
    """Put attributes where their modules run; what runs on several devices keeps its own.

    Returns the attributes that are registered tensors too, by the id of what is registered now.

    Args:
        tree: the model's tree without wrappers.
        live: the module behind each module of the tree, its weights loaded.
        runs: where each tensor is computed with.
        loaded: what is registered now, by the id of what was registered before.
        spans: the tensors of units with visited parts, and where those units run.

    """
    moved: dict[tuple[int, torch.device], torch.Tensor] = {}
    others: dict[int, list[Home]] = {}
    for module, owner in enumerate(live):
        for name, value in attributes_of(owner):
            if id(value) in loaded:
                owner.__dict__[name] = registered = loaded[id(value)]
                others.setdefault(id(registered), []).append((owner.__dict__, name))
            elif (hook := hook_that_makes(owner, name)) is not None:
                _make(owner, hook)
            elif value.dim() and not value.requires_grad:  # numbers meet tensors of every device
                device = _device(tree, module, runs, spans) or value.device
                owner.__dict__[name] = moved.setdefault((id(value), device), value.to(device))
    return others


def _make(module: nn.Module, hook: Callable[[nn.Module, tuple[()]], object]) -> None:
    training = module.training
    module.training = False  # spectral norm takes a step of its iteration in training
    try:
        hook(module, ())
    finally:
        module.training = training


def _device(
    tree: ModuleTree,
    module: int,
    runs: Mapping[int, torch.device],
    spans: Sequence[tuple[range, torch.device]],
) -> torch.device | None:
    """Return where a module runs, if that is one device or it has parts that are visited."""
    beside = tensors_beside(tree, module)
    found = {runs[tensor] for tensor in beside}
    return found.pop() if len(found) == 1 else run_around(spans, beside, None)

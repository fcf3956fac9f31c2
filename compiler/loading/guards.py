"""What a spread model is kept from: being moved or converted as a whole, past its plan and its hooks.

All of torch's ways to do that (``.to()``, ``.half()``, ``.cuda()``) go through one method of the module.
Where nothing would change they pass, so that ``.to(model.device)`` in somebody's code does no harm.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn

from ...ir import Diagnostic, PlanError
from ...ir.rules.loading import MOVED_BY_HAND
from .seats import live_modules

_METHOD = "_apply"
Change: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
"""What is to be done to every tensor of a module."""


@dataclass(frozen=True, slots=True)
class Guard:
    """Stands before a module's method that changes all its tensors."""

    module: nn.Module
    streamed: bool
    """Whether some of its weights come and go; dtypes of others may change."""

    def __call__(self, fn: Change, recurse: bool = True) -> nn.Module:  # noqa: FBT001, FBT002  # torch's own
        """Refuse what would move tensors; do the rest."""
        if any(_changes(fn, *kind, dtypes=self.streamed) for kind in _kinds(self.module)):
            raise PlanError([self._refusal()])
        method: Any = getattr(type(self.module), _METHOD)
        done: nn.Module = method(self.module, fn, recurse)
        return done

    def _refusal(self) -> Diagnostic:
        kind = type(self.module).__name__
        how = "streamed" if self.streamed else "spread over several devices"
        message = f"`{kind}` is {how} as its plan says, and cannot be moved or converted as a whole"
        help_ = (
            "give `load_model` another plan or a `dtype`, or call `release_model` first: then the weights "
            "are an ordinary module's"
        )
        return Diagnostic(MOVED_BY_HAND, message, help=help_)

    def remove(self) -> None:
        """Let the module be changed again."""
        self.module.__dict__.pop(_METHOD, None)


def guarded(model: nn.Module, streamed: Collection[int]) -> list[Guard]:
    """Guard a model and the modules with streamed tensors in or below them, given by their ids."""
    modules = live_modules(model)
    paths = {above for path, module in modules.items() if id(module) in streamed for above in _upwards(path)}
    found = {id(modules[path]): modules[path] for path in sorted(paths)}
    guards = [Guard(module, streamed=True) for module in found.values()]
    guards = guards or [Guard(model, streamed=False)]
    for guard in guards:
        guard.module.__dict__[_METHOD] = guard
    return guards


def _upwards(path: str) -> Iterator[str]:
    while path:
        yield path
        path = path.rpartition(".")[0]
    yield ""


def _kinds(module: nn.Module) -> set[tuple[torch.device, torch.dtype]]:
    return {(tensor.device, tensor.dtype) for tensor in (*module.parameters(), *module.buffers())}


def _changes(fn: Change, device: torch.device, dtype: torch.dtype, *, dtypes: bool) -> bool:
    """Say whether a change does something to tensors of a kind, tried on one without elements."""
    probe = torch.empty(0, dtype=dtype, device=device)
    try:
        after = fn(probe)
    except Exception:  # noqa: BLE001  # a device that is not there, said in many ways
        return True
    if not dtypes:
        return after.device != device
    return after is not probe or (device.type == "cpu" and probe.is_shared())  # type: ignore[no-untyped-call]

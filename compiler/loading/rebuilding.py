"""Tensors that are in no checkpoint, made again: by the model's own initialisation or a constructor.

Every value is made twice, from memory filled with different numbers. Only what comes out the same
both times is used: neither uninitialised memory nor random numbers pass. The model is not touched.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

import torch
from torch import nn

from ...ir import Diagnostic, Diagnostics, join_path
from ...ir.rules.loading import UNFILLED_TENSOR
from .places import Slot

Materialize: TypeAlias = Callable[[str, torch.Tensor], "torch.Tensor | None"]
_FILLS: Final = (0, 1)
_SCALARS: Final = (bool, int, float, str, type(None))


def rebuild(
    slots: Sequence[Slot], model: nn.Module, materialize: Materialize | None, diagnostics: Diagnostics
) -> dict[str, torch.Tensor]:
    """Return a CPU tensor for each slot by its first path; those nothing could make are reported."""
    made: dict[str, torch.Tensor] = {}
    lost: list[str] = []
    modules = dict(model.named_modules(remove_duplicate=False))
    with _same_random_state():
        for slot in slots:
            value = _value(slot, model, modules, materialize)
            if value is None:
                lost.append(slot.paths[0])
            else:
                made[slot.paths[0]] = value
    _report(lost, diagnostics)
    return made


def attributes_on_meta(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, torch.Tensor]]:
    """Yield tensors on the meta device that modules hold as plain attributes."""
    for path, module in model.named_modules():
        for name, value in module.__dict__.items():
            if isinstance(value, torch.Tensor) and value.is_meta:
                yield join_path(path, name), module, name, value


def rebuild_attributes(
    model: nn.Module, materialize: Materialize | None, diagnostics: Diagnostics
) -> list[tuple[nn.Module, str, torch.Tensor]]:
    """Return a CPU tensor for each plain attribute on the meta device; what cannot be made is reported."""
    made: list[tuple[nn.Module, str, torch.Tensor]] = []
    lost: list[str] = []
    with _same_random_state():
        for path, module, name, tensor in attributes_on_meta(model):
            value = None if materialize is None else materialize(path, tensor)
            value = _twice(_by_constructor, module, name, model, tensor) if value is None else value
            if value is None:
                lost.append(path)
            else:
                made.append((module, name, value))
    _report(lost, diagnostics)
    return made


def _report(lost: Sequence[str], diagnostics: Diagnostics) -> None:
    if lost:
        names = ", ".join(f"`{path}`" for path in lost[:8]) + (", ..." if len(lost) > 8 else "")
        message = f"{len(lost)} tensors are in no checkpoint and cannot be made again: {names}"
        help_ = "pass `materialize`, a function from path and meta tensor to the value"
        diagnostics.add(Diagnostic(UNFILLED_TENSOR, message, help=help_))


def _value(
    slot: Slot, model: nn.Module, modules: Mapping[str, nn.Module], materialize: Materialize | None
) -> torch.Tensor | None:
    if materialize is not None:
        given = materialize(slot.paths[0], slot.tensor)
        if given is not None and not given.is_meta and given.shape == slot.tensor.shape:
            return given.detach().to(slot.dtype)
    for path in slot.live:
        owner, _, name = path.rpartition(".")
        if name not in modules[owner]._buffers:  # noqa: SLF001  # a parameter without a source is no constant
            continue
        for maker in (_by_initialisation, _by_constructor):
            value = _twice(maker, modules[owner], name, model, slot.tensor)
            if value is not None:
                return value.to(slot.dtype)
    return None


_Maker: TypeAlias = Callable[[nn.Module, str, nn.Module, int], "torch.Tensor | None"]


def _twice(
    maker: _Maker, module: nn.Module, name: str, model: nn.Module, like: torch.Tensor
) -> torch.Tensor | None:
    """Make a value from two different starts; None unless both agree."""
    values: list[torch.Tensor] = []
    for fill in _FILLS:
        try:
            value = maker(module, name, model, fill)
        except Exception:  # noqa: BLE001  # whatever a constructor of the user's raises: it cannot be used
            return None
        if value is None or value.is_meta or value.shape != like.shape or value.dtype != like.dtype:
            return None
        values.append(value.detach().clone())
    same = torch.equal(_as_bytes(values[0]), _as_bytes(values[1]))
    return values[0] if same else None


def _as_bytes(value: torch.Tensor) -> torch.Tensor:
    return value.contiguous().view(-1).view(torch.uint8) if value.numel() else value


def _by_initialisation(module: nn.Module, name: str, model: nn.Module, fill: int) -> torch.Tensor | None:
    """Let transformers' own `_init_weights` write the buffers of a hollow copy of the module."""
    initialise = getattr(model, "_init_weights", None)
    if initialise is None:
        return None
    hollow = _hollow(module, fill)
    initialise(hollow)
    return hollow._buffers[name]  # noqa: SLF001


def _hollow(module: nn.Module, fill: int) -> nn.Module:
    """Copy a module without its weights: parameters on the meta device, buffers filled with a number."""
    twin = copy.copy(module)
    twin.__dict__ = dict(module.__dict__)
    twin._parameters = {  # noqa: SLF001
        key: None
        if value is None
        else nn.Parameter(torch.empty_like(value, device="meta"), requires_grad=False)
        for key, value in module._parameters.items()  # noqa: SLF001
    }
    twin._buffers = {  # noqa: SLF001
        key: None if value is None else torch.full(value.shape, fill, dtype=value.dtype, device="cpu")
        for key, value in module._buffers.items()  # noqa: SLF001
    }
    twin._modules = {  # noqa: SLF001
        key: None if child is None else _hollow(child, fill)
        for key, child in module._modules.items()  # noqa: SLF001
    }
    twin._is_hf_initialized = False  # type: ignore[assignment]  # noqa: SLF001
    return twin


def _by_constructor(module: nn.Module, name: str, model: nn.Module, fill: int) -> torch.Tensor | None:
    """Run the module's constructor again with the arguments its attributes show."""
    arguments = _arguments(module, model)
    if arguments is None:
        return None
    with _parameters_on_meta(), torch.device("cpu"), _filled_memory(fill):
        twin = type(module)(**arguments)
    twin.train(module.training)
    if not _looks_like(twin, module):
        return None
    found = getattr(twin, name, None)
    return found if isinstance(found, torch.Tensor) else None


def _arguments(module: nn.Module, model: nn.Module) -> dict[str, Any] | None:
    found: dict[str, Any] = {}
    for parameter in inspect.signature(type(module)).parameters.values():
        if parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}:
            continue
        if parameter.name in {"device", "dtype"}:
            continue
        value = _attribute(module, parameter.name)
        if value is None and parameter.name == "config":
            value = getattr(model, "config", None)
        if value is not None:
            found[parameter.name] = value
        elif parameter.default is parameter.empty:
            return None
    return found


def _attribute(module: nn.Module, name: str) -> object:
    for spelling in (name, f"_{name}"):
        value = module.__dict__.get(spelling)
        if value is not None:
            return value
    return None


def _looks_like(twin: nn.Module, module: nn.Module) -> bool:
    """Say whether two modules agree in every plain attribute and in all names and shapes of tensors."""
    plain = {
        k: v for k, v in module.__dict__.items() if isinstance(v, _SCALARS) and not k.startswith("_is_hf")
    }
    agree = all(k in twin.__dict__ and twin.__dict__[k] == v for k, v in plain.items())
    return agree and _shapes(twin) == _shapes(module)


def _shapes(module: nn.Module) -> list[tuple[str, torch.Size]]:
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return [(name, tensor.shape) for name, tensor in tensors]


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Register every parameter made inside on the meta device, so that a large module costs nothing."""
    original = nn.Module.register_parameter

    def register(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        bare = (
            None if param is None else nn.Parameter(param.data.to("meta"), requires_grad=param.requires_grad)
        )
        original(self, name, bare)

    nn.Module.register_parameter = register  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = original  # type: ignore[method-assign]


class _Filled(torch.overrides.TorchFunctionMode):
    """Make ``torch.empty`` and its relatives return memory filled with a number."""

    def __init__(self, fill: int) -> None:
        super().__init__()
        self._fill = fill

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401  # torch's protocol
        del types
        made = func(*args, **(kwargs or {}))
        if func in {torch.empty, torch.empty_like, torch.empty_strided} and not made.is_meta:
            made.fill_(self._fill)
        return made


def _filled_memory(fill: int) -> _Filled:
    return _Filled(fill)


@contextmanager
def _same_random_state() -> Iterator[None]:
    """Leave torch's generator as it was."""
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)

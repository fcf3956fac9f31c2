"""Modules built again for what they make of nothing: without weights, in memory filled with a number."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import nn

_BUILT_IN: Final = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_SCALARS: Final = (bool, int, float, str, type(None))


def hollow(module: nn.Module, fill: int, *, real: bool = False) -> nn.Module:
    """Copy a module without its weights: buffers filled with a number, parameters too or on meta."""
    twin = object.__new__(type(module))  # not `copy`: parametrised modules refuse it
    twin.__dict__ = dict(module.__dict__)
    twin._parameters = {
        key: None
        if value is None
        else nn.Parameter(_blank(value, fill) if real else _on_meta(value), requires_grad=False)
        for key, value in module._parameters.items()  # noqa: SLF001
    }
    twin._buffers = {
        key: None if value is None else torch.full(value.shape, fill, dtype=value.dtype, device="cpu")
        for key, value in module._buffers.items()  # noqa: SLF001
    }
    twin._modules = {
        key: None if child is None else hollow(child, fill, real=real)
        for key, child in module._modules.items()  # noqa: SLF001
    }
    twin._is_hf_initialized = False  # type: ignore[assignment]
    return twin


def _blank(value: torch.Tensor, fill: int) -> torch.Tensor:
    return torch.full(value.shape, fill, dtype=value.dtype, device="cpu")


def _on_meta(value: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(value, device="meta")


def constructor_arguments(module: nn.Module, config: object) -> dict[str, Any] | None:
    """Return what a constructor takes, as far as the module tells; None where that is not enough."""
    found: dict[str, Any] = {}
    for parameter in inspect.signature(type(module)).parameters.values():
        if parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}:
            continue
        if parameter.name in {"device", "dtype"}:
            continue
        value = _attribute(module, parameter.name)
        if value is None and parameter.name == "config":
            value = config
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


def looks_like(twin: nn.Module, module: nn.Module) -> bool:
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
def parameters_on_meta() -> Iterator[None]:
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


class FilledMemory(torch.overrides.TorchFunctionMode):
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


@contextmanager
def same_random_state() -> Iterator[None]:
    """Leave torch's generator as it was."""
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)


def usual_dtypes(module: nn.Module) -> Iterator[torch.dtype]:
    """Yield torch's default dtype, and that of a module's first weights where it is another."""
    usual = torch.get_default_dtype()
    yield usual
    floats = (weight.dtype for weight in module.parameters() if weight.dtype in _BUILT_IN)
    first = next(floats, usual)
    if first != usual:
        yield first


@contextmanager
def usual_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Make a dtype torch's default inside."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)

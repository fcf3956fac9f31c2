"""Building models without their weights: on the meta device, and a gentler mode for stubborn ones.

Some constructors compute small things (``[x.item() for x in torch.linspace(0, rate, depth)]``), which
the meta device cannot. The gentler mode makes small tensors for real, and large ones and every
parameter on meta, so a model of any size still takes megabytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._device import DeviceContext

LARGE: Final = 1 << 20
"""Elements; smaller tensors are real in the gentler mode."""
_SIZED: Final = frozenset({torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn})
_TO_CARDS: Final = frozenset({torch.Tensor.to, torch.Tensor.cuda, torch.Tensor.xpu})
_INITIALISERS: Final = frozenset(
    value for name, value in vars(nn.init).items() if name.endswith("_") and callable(value)
)


class TrainsError(BaseException):
    """A script trains while it is imported: what it built until then is what there is to plan.

    No `Exception`, so that a training loop that goes on after errors ends all the same.
    """


@contextmanager
def weightless(*, gentle: bool) -> Iterator[None]:
    """Make what is built inside take no memory; defaults of torch that change inside are put back."""
    dtype, grad = torch.get_default_dtype(), torch.is_grad_enabled()
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices=[]))
            if gentle:
                stack.enter_context(_LargeOnMeta())
                stack.enter_context(_parameters_on_meta())
            else:
                stack.enter_context(_Meta(torch.device("meta")))
            yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(grad)


class _Meta(DeviceContext):
    """The meta device, where initialisers leave tensors alone: they would only cost time."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        if func is torch.Tensor.backward or func is torch.autograd.backward:
            raise TrainsError
        if func in _TO_CARDS:
            return _stays(func, args, kwargs or {})
        if _is_card((kwargs or {}).get("device")):
            kwargs = {**(kwargs or {}), "device": "meta"}
        if func in _INITIALISERS:
            tensor = args[0] if args else (kwargs or {}).get("tensor")
            if isinstance(tensor, torch.Tensor) and tensor.is_meta:
                return tensor
        return super().__torch_function__(func, types, args, kwargs)  # type: ignore[no-untyped-call]


def _stays(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
    """Move a tensor without weights nowhere: cards that scripts name may not be there. Dtypes change."""
    if func is not torch.Tensor.to:
        return args[0]
    device, dtype, _, layout = torch._C._nn._parse_to(*args[1:], **kwargs)  # noqa: SLF001  # what Module.to asks  # pyright: ignore[reportAttributeAccessIssue]
    del layout
    moved = device is not None and args[0].is_meta
    if not moved:
        return func(*args, **kwargs)
    return args[0] if dtype is None else args[0].to(dtype)


def _is_card(device: Any) -> bool:  # noqa: ANN401  # whatever a script writes
    """Say whether a device is an accelerator, which may not be there."""
    try:
        return device is not None and torch.device(device).type not in {"cpu", "meta"}
    except (RuntimeError, TypeError):
        return False  # torch will say what is wrong with it


class _LargeOnMeta(TorchFunctionMode):
    """Tensors made with a large size are made on meta."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        options = dict(kwargs or {})
        if func is torch.Tensor.backward or func is torch.autograd.backward:
            raise TrainsError
        if func in _TO_CARDS:
            return _stays(func, args, options)
        if _is_card(options.get("device")):
            options["device"] = None
        if func in _SIZED and options.get("device") is None and _elements(args, options) >= LARGE:
            options["device"] = "meta"
        return func(*args, **options)


def _elements(args: tuple[Any, ...], options: dict[str, Any]) -> int:
    sizes = options.get("size", args[0] if args and isinstance(args[0], tuple | list) else args)
    count = 1
    for size in sizes if isinstance(sizes, tuple | list) else ():
        count *= size if isinstance(size, int) else 1
    return count


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    register = nn.Module.register_parameter

    def on_meta(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and type(param) is nn.Parameter and param.device.type != "meta":
            param = _meta_of(param)
        register(module, name, param)

    nn.Module.register_parameter = on_meta  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def _meta_of(param: nn.Parameter) -> nn.Parameter:
    """Return the one meta twin of a parameter, so that a tie stays a tie."""
    twin: nn.Parameter | None = getattr(param, "_meta_twin", None)
    if twin is None:
        twin = nn.Parameter(param.detach().to("meta"), requires_grad=param.requires_grad)
        param._meta_twin = twin  # type: ignore[attr-defined]  # noqa: SLF001  # lives as long as the parameter
    return twin

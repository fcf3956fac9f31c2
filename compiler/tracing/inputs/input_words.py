"""Inputs in words, as ``--inputs`` takes them: what to write for a model, with its own names and shapes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Final

from torch import Tensor, nn

from ...running.nesting import Untyped, tensors_in

_TOKENS: Final = "int64[1,128]"
_SIDES: Final = {1: "128", 2: "224,224", 3: "16,112,112"}


def how_to_give(model: nn.Module) -> str:
    """Return what to write for a model without inputs: its arguments, sized by its first weight."""
    shape = _first_shape(model)
    return f'--inputs "{", ".join(f"{name}={shape}" for name in _required(model)) or shape}"'


def resized_inputs(inputs: Untyped, *, batch: int | None, seq: int | None) -> str:
    """Return what to write for inputs one has, with another batch or another length of the tokens."""
    named = inputs.items() if isinstance(inputs, Mapping) else (("", item) for item in tensors_in(inputs))
    written = [_written(name, item, batch, seq) for name, item in named if isinstance(item, Tensor)]
    return f'--inputs "{", ".join(written) or _TOKENS}"'


def _written(name: str, tensor: Tensor, batch: int | None, seq: int | None) -> str:
    shape = list(tensor.shape)
    if batch is not None and shape:
        shape[0] = batch
    if seq is not None and len(shape) > 1:
        shape[1] = seq
    text = f"{str(tensor.dtype).removeprefix('torch.')}[{','.join(map(str, shape))}]"
    return f"{name}={text}" if name else text


def _required(model: nn.Module) -> Iterator[str]:
    """Yield the names of the arguments without a default."""
    for name, parameter in inspect.signature(model.forward).parameters.items():
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            yield name


def _first_shape(model: nn.Module) -> str:
    """Return a type and a shape that the first layer with weights takes."""
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, Tensor):
            continue
        if isinstance(module, nn.Embedding):
            return _TOKENS
        dtype = str(weight.dtype).removeprefix("torch.")
        channels = getattr(module, "in_channels", weight.shape[-1])
        sides = _SIDES.get(weight.dim() - 2, "")
        return f"{dtype}[{','.join(filter(None, ('1', str(channels), sides)))}]"
    return _TOKENS

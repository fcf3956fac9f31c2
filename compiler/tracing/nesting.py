"""Tensors in nested arguments, found the way the loader finds them: lists, tuples, mappings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from torch import Tensor

Untyped: TypeAlias = Any
"""What torch and models hand over and take back; neither declares it."""


def tensors_in(item: object) -> Iterator[Tensor]:
    """Yield the tensors in nested lists, tuples and mappings, as the loader looks for them."""
    if isinstance(item, Tensor):
        yield item
    elif isinstance(item, list | tuple):
        for part in item:
            yield from tensors_in(part)
    elif isinstance(item, Mapping):
        for part in item.values():
            yield from tensors_in(part)


def map_tensors(item: Untyped, change: Callable[[Tensor], Tensor]) -> Untyped:
    """Return the same nesting with every tensor changed; objects of other kinds stay as they are."""
    if isinstance(item, Tensor):
        return change(item)
    if isinstance(item, tuple):
        parts = [map_tensors(part, change) for part in item]
        return type(item)(*parts) if hasattr(item, "_fields") else tuple(parts)
    if type(item) is list:
        return [map_tensors(part, change) for part in item]
    if type(item) is dict:
        return {key: map_tensors(part, change) for key, part in item.items()}
    return _map_mapping(item, change) if isinstance(item, Mapping) else item


def _map_mapping(item: Untyped, change: Callable[[Tensor], Tensor]) -> Untyped:
    try:
        return type(item)({key: map_tensors(part, change) for key, part in item.items()})
    except TypeError:
        return item


def to_meta(item: Untyped) -> Untyped:
    """Return the same nesting with every tensor on the meta device."""
    return map_tensors(item, lambda tensor: tensor.to("meta") if tensor.device.type != "meta" else tensor)

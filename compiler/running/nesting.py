"""Tensors in nested arguments, found as the loader finds them: lists, tuples, mappings, dataclasses."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeAlias

from torch import Tensor

Untyped: TypeAlias = Any
"""What torch and models hand over and take back; neither declares it."""
Lent: TypeAlias = tuple[Untyped, Untyped, Untyped]


def tensors_in(item: object) -> Iterator[Tensor]:
    """Yield the tensors in a nesting, as the loader looks for them."""
    if isinstance(item, Tensor):
        yield item
        return
    for part in _parts(item):
        yield from tensors_in(part)


def map_tensors(item: Untyped, change: Callable[[Tensor], Tensor]) -> Untyped:
    """Return the same nesting with every tensor changed; what holds none stays the same object."""
    if isinstance(item, Tensor):
        return change(item)
    before = list(_parts(item))
    after = [map_tensors(part, change) for part in before]
    if all(new is old for new, old in zip(after, before, strict=True)):
        return item
    if isinstance(item, list | tuple):
        return type(item)(*after) if hasattr(item, "_fields") else type(item)(after)
    if isinstance(item, Mapping):
        result: Untyped = copy.copy(item) if isinstance(item, dict) else item  # what moves itself is shared
        for key, part in zip(list(item), after, strict=True):
            result[key] = part
        return result
    return _changed(item, after)


def _parts(item: Untyped) -> Iterator[Untyped]:
    """Yield what the loader looks into: items, values of mappings it can change, fields of dataclasses."""
    if isinstance(item, list | tuple):
        yield from item
    elif isinstance(item, dict) or (isinstance(item, MutableMapping) and hasattr(item, "to")):
        yield from item.values()
    elif _is_record(item):
        yield from _fields_of(item)


def _fields_of(record: Untyped) -> Iterator[Untyped]:
    return (getattr(record, field.name, None) for field in fields(record))


def _is_record(item: Untyped) -> bool:
    return is_dataclass(item) and not isinstance(item, type)


def _changed(item: Untyped, after: Sequence[Untyped]) -> Untyped:
    result = copy.copy(item)
    for field, part in zip(fields(result), after, strict=True):
        object.__setattr__(result, field.name, part)  # frozen ones too
    return result


def lent(outer: Untyped, inner: Untyped) -> Iterator[Lent]:
    """Yield each container of a nesting with the copy of it that a call gets, and what that holds."""
    if outer is inner or isinstance(outer, Tensor):
        return
    if isinstance(outer, list | dict) or _is_record(outer):
        yield outer, inner, _held(inner)
    for first, second in zip(_parts(outer), _parts(inner), strict=False):
        yield from lent(first, second)


def _held(item: Untyped) -> Untyped:
    if isinstance(item, list):
        return list(item)
    if isinstance(item, dict):
        return dict(item)
    return {field.name: getattr(item, field.name, None) for field in fields(item)}


def give_back(outer: Untyped, inner: Untyped, before: Untyped) -> None:
    """Do to a container what a call did to its copy: models hand state on in them."""
    after = _held(inner)
    if isinstance(outer, list):
        del outer[len(after) :]
        outer += after[len(before) :]
        return
    for key in before:
        if key not in after:
            del outer[key]
    for key, item in after.items():
        if key not in before or before[key] is not item:
            if isinstance(outer, dict):
                outer[key] = item
            else:
                object.__setattr__(outer, key, item)


def to_meta(item: Untyped) -> Untyped:
    """Return the same nesting with every tensor on the meta device."""
    return map_tensors(item, lambda tensor: tensor.to("meta") if tensor.device.type != "meta" else tensor)

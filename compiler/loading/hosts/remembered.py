"""The forward of a unit of another host: what it would return, and what it would do to the cache.

The first times the unit's own code runs on the meta device, which is exact and slow. Two calls that differ
in some sizes and agree in everything they give show that those sizes do not matter (the length of the
cache, while tokens are written); from then on a call is answered from memory and only the cache is told.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self, TypeAlias

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ...running.nesting import Untyped, map_tensors, tensors_in
from ..streaming.choosers import chooser_of

_SIMPLE: Final = (bool, int, float, str, bytes, type(None), torch.dtype, torch.device)
_KEPT: Final = 64
"""Kinds of calls remembered for one unit; a prompt of another length is another kind."""

Dims: TypeAlias = tuple[int, ...]
Told: TypeAlias = tuple[tuple[int, str, Untyped, Untyped], ...]
"""Calls that change a cache: which of the caches, the method, its arguments."""


@dataclass(frozen=True, slots=True)
class _Seen:
    dims: tuple[int | None, ...]
    """Sizes of the tensors given, one after another; None where the size does not matter."""
    result: Untyped
    told: Told


class Remembered:
    """Stands for the forward of a module whose weights are on another host."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        self._forward = forward
        self._seen: dict[Untyped, list[_Seen]] = {}
        self._exact = False
        """Whether the unit does more than return something and tell caches, so that it always runs."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  # a forward of any signature
        """Return tensors without values, as the forward would return them."""
        if self._exact:
            return self._forward(*args, **kwargs)
        leaves = list(_leaves((args, kwargs)))
        caches = [leaf for leaf in leaves if _is_cache(leaf)]
        kind = (*(_kind(leaf) for leaf in leaves), *map(_begun, caches))
        dims = tuple(size for leaf in leaves if isinstance(leaf, torch.Tensor) for size in leaf.shape)
        known = self._seen.setdefault(kind, [])
        found = next((seen for seen in known if _fits(seen.dims, dims)), None)
        if found is None:
            return self._learn(args, kwargs, caches, known, dims)
        with _Joined():
            for number, method, given, named in found.told:
                getattr(caches[number], method)(*given, **named)
        return map_tensors(found.result, torch.empty_like)

    def _learn(
        self, args: Untyped, kwargs: Untyped, caches: Sequence[Untyped], known: list[_Seen], dims: Dims
    ) -> Untyped:
        maps = [leaf for leaf in _leaves((args, kwargs), whole=True) if isinstance(leaf, MutableMapping)]
        sizes = [len(one) for one in maps]
        twins = [_twin(cache) for cache in caches]
        with _Listening(caches) as heard:
            result = self._forward(*args, **kwargs)
        for number, method, given, named in heard.told:
            getattr(twins[number], method)(*given, **named)
        same = all(_state(cache) == _state(twin) for cache, twin in zip(caches, twins, strict=True))
        if not same or sizes != [len(one) for one in maps]:
            self._exact = True
            return result
        made = _Seen(dims, map_tensors(result, _detached), tuple(heard.told))
        like = next((seen for seen in known if _agree(seen, made)), None)
        if like is not None:
            known.remove(like)
            merged = (old if old == new else None for old, new in zip(like.dims, dims, strict=True))
            made = _Seen(tuple(merged), made.result, made.told)
        known.append(made)
        del known[:-_KEPT]
        return result


class _Joined(TorchFunctionMode):
    """Joins tensors without values by their shapes: torch takes half a millisecond to do so in Python."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401  # torch's protocol
        """Run an operation."""
        del types
        named = dict(kwargs or {})
        made = _joined(*args, **named) if func is torch.cat and "out" not in named else None
        return func(*args, **named) if made is None else made


def _joined(tensors: Sequence[torch.Tensor], dim: int = 0) -> torch.Tensor | None:
    """Return the shape of tensors side by side; None where it is not as simple as that."""
    shapes = [list(tensor.shape) for tensor in tensors]
    first = tensors[0]
    if any(not one.is_meta or one.dtype != first.dtype or one.dim() != first.dim() for one in tensors):
        return None
    sizes = [shape.pop(dim) for shape in shapes]
    if any(shape != shapes[0] for shape in shapes):
        return None
    whole = list(first.shape)
    whole[dim] = sum(sizes)
    return torch.empty(whole, dtype=first.dtype, device="meta")


def _detached(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(tensor, requires_grad=False)


def _fits(dims: Sequence[int | None], given: Dims) -> bool:
    return len(dims) == len(given) and all(a is None or a == b for a, b in zip(dims, given, strict=True))


def _agree(first: _Seen, second: _Seen) -> bool:
    """Say whether two calls gave the same, so that what differs in their sizes does not matter."""
    return _shapes((first.result, first.told)) == _shapes((second.result, second.told))


def _shapes(value: Untyped) -> list[Untyped]:
    return [_kind(leaf, sizes=True) for leaf in _leaves(value)]


def _kind(leaf: Untyped, *, sizes: bool = False) -> Untyped:
    if isinstance(leaf, torch.Tensor):
        return (leaf.dtype, tuple(leaf.shape) if sizes else leaf.dim())
    if isinstance(leaf, _SIMPLE):
        return (type(leaf), leaf)
    return type(leaf)


def _leaves(value: Untyped, *, whole: bool = False) -> Iterator[Untyped]:
    """Yield the parts of arguments in order; ``whole`` yields the mappings themselves too."""
    if whole and isinstance(value, MutableMapping):
        yield value
    if isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item, whole=whole)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield key
            yield from _leaves(item, whole=whole)
    else:
        yield value


def _is_cache(leaf: Untyped) -> bool:
    return not isinstance(leaf, _SIMPLE) and any(_tells(leaf))


def _begun(cache: Untyped) -> bool:
    """Say whether a cache holds something: layers with a state take other ways when they begin one."""
    try:
        return bool(cache.get_seq_length())
    except Exception:  # noqa: BLE001  # a cache without lengths
        return False


def _tells(cache: Untyped) -> Iterator[str]:
    """Yield the methods by which a layer changes a cache of transformers."""
    if hasattr(cache, "get_seq_length") and hasattr(cache, "get_mask_sizes"):
        yield from (name for name in dir(type(cache)) if name.startswith("update"))


class _Listening:
    """Hears what is told to caches, while it happens."""

    def __init__(self, caches: Sequence[Untyped]) -> None:
        self._caches = caches
        self.told: list[tuple[int, str, Untyped, Untyped]] = []
        self._inside = False

    def __enter__(self) -> Self:
        for number, cache in enumerate(self._caches):
            for name in _tells(cache):
                cache.__dict__[name] = self._heard(number, name, getattr(cache, name))
        return self

    def __exit__(self, *_: object) -> None:
        for cache in self._caches:
            for name in _tells(cache):
                cache.__dict__.pop(name, None)

    def _heard(self, number: int, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def tell(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            if self._inside:
                return method(*args, **kwargs)
            self.told.append((number, name, map_tensors(args, _detached), map_tensors(kwargs, _detached)))
            self._inside = True
            try:
                return method(*args, **kwargs)
            finally:
                self._inside = False

        return tell


def _twin(cache: Untyped) -> Untyped:
    """Return a copy of a cache, its layers and their tables, that can be told things without it changing."""
    if isinstance(cache, list):
        return [_twin(item) for item in cache]
    if isinstance(cache, dict):
        return {key: _twin(item) for key, item in cache.items()}
    if not _is_open(cache):
        return cache
    twin = copy.copy(cache)
    twin.__dict__ = {name: _twin(value) for name, value in vars(cache).items()}
    return twin


def _is_open(item: Untyped) -> bool:
    """Say whether a part of a cache has parts itself: layers have, tensors and configurations have not."""
    closed = isinstance(item, (torch.Tensor, type, *_SIMPLE)) or hasattr(item, "to_dict")
    return hasattr(item, "__dict__") and not closed


def _state(cache: Untyped) -> list[Untyped]:
    """Return what can be seen of a cache: shapes, numbers, flags."""
    found: list[Untyped] = []
    stack: list[Untyped] = [cache]
    while stack:
        item = stack.pop()
        if isinstance(item, list | tuple):
            stack += item
        elif isinstance(item, dict):
            stack += [*item.keys(), *item.values()]
        elif isinstance(item, (torch.Tensor, *_SIMPLE)):
            found.append(_kind(item, sizes=True))
        elif _is_open(item):
            stack += [value for _, value in sorted(vars(item).items())]
    return found


class Replaced:
    """A module's forward that is another for a while."""

    def __init__(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        self._module = module
        self._before = module.__dict__.get("forward")
        module.__dict__["forward"] = forward

    def remove(self) -> None:
        """Let the module have its own again."""
        self._module.__dict__.pop("forward", None)
        if self._before is not None:
            self._module.__dict__["forward"] = self._before


def shape_of_experts(module: nn.Module) -> Callable[..., Any] | None:
    """Return what stands for a module of experts: how it deals out tokens depends on their values."""
    chooser = chooser_of(module) if hasattr(module, "num_experts") else None
    if chooser is None or not chooser.experts:
        return None

    def forward(*args: Any, **kwargs: Any) -> torch.Tensor:  # noqa: ANN401
        given = next(iter(tensors_in((args, kwargs))))
        return torch.empty_like(given)

    return forward

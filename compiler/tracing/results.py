"""What a model returned: which tensors are state for the next call, which are scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from torch import Tensor, nn

_STATE: Final = ("past_key_values", "cache_params", "past_buckets_states", "mems", "state", "cache")
_SCORES: Final = ("logits", "prediction_logits", "lm_logits")


def cache_of(result: object) -> list[Tensor]:
    """Return the tensors a result keeps for the next call: by name, or inside an object of its own."""
    if isinstance(result, Mapping):
        named = [part for name, part in result.items() if name in _STATE]
        others = [part for name, part in result.items() if name not in _STATE]
    else:
        named, others = [], [*result] if isinstance(result, list | tuple) else [result]
    hidden = [part for part in others if not isinstance(part, Tensor | list | tuple | Mapping)]
    return list(_reachable([*named, *hidden], set()))


def unique(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Return each tensor once, in order."""
    return list({id(tensor): tensor for tensor in tensors}.values())


def state_of(result: object) -> tuple[str, object] | None:
    """Return the name and the object of what a result keeps for the next call; None if it keeps nothing."""
    if not isinstance(result, Mapping):
        return None
    found = {name: part for name, part in result.items() if name in _STATE and part is not None}
    named = [(name, found[name]) for name in _STATE if name in found]  # other names it may answer to are old
    return named[0] if named else None


def logits_of(result: object) -> list[Tensor]:
    """Return the tensors named as scores."""
    if not isinstance(result, Mapping):
        return []
    return [part for name, part in result.items() if name in _SCORES and isinstance(part, Tensor)]


def _reachable(item: object, seen: set[int]) -> Iterator[Tensor]:
    if item is None or id(item) in seen or isinstance(item, str | int | float | nn.Module | type):
        return
    seen.add(id(item))
    if isinstance(item, Tensor):
        yield item
        return
    if isinstance(item, Mapping):
        parts = list(item.values())
    elif isinstance(item, list | tuple):
        parts = list(item)
    else:
        parts = list(getattr(item, "__dict__", {}).values())
    for part in parts:
        yield from _reachable(part, seen)

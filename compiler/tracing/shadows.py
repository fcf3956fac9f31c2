"""Values of small tensors that do not depend on weights: masks, positions, lengths, shapes as tensors.

A forward often asks such tensors for a value (is any token masked? how long is this clip?). Meta tensors
have none, so each small result whose inputs are known is computed a second time on the CPU.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from .nesting import Untyped, map_tensors, tensors_in

MAX_NUMEL: Final = 1 << 19
_RANDOM: Final = torch.Tag.nondeterministic_seeded
_ATEN: Final = torch.ops.aten
_ASKS_VALUES: Final = frozenset(
    {
        _ATEN._local_scalar_dense,  # noqa: SLF001
        _ATEN.equal,
        _ATEN.is_nonzero,
        _ATEN.masked_select,
        _ATEN.nonzero,
        _ATEN.repeat_interleave,
        _ATEN._unique2,  # noqa: SLF001
        _ATEN.unique_consecutive,
        _ATEN.unique_dim,
        _ATEN.bincount,
    }
)


class Shadows:
    """Known values by the identity of the meta tensor they belong to."""

    def __init__(self) -> None:
        self._values: dict[int, Tensor] = {}

    def learn(self, tensor: Tensor, value: Tensor) -> None:
        """Remember the value of a meta tensor if it is small."""
        if value.device.type == "cpu" and value.numel() <= MAX_NUMEL:
            self._values[id(tensor)] = value

    def forget(self, key: int) -> None:
        """Drop the value of a tensor that is gone."""
        self._values.pop(key, None)

    def pass_on(self, old: Tensor, new: Tensor) -> None:
        """Give a second object over the same storage the same value."""
        if (value := self._values.get(id(old))) is not None:
            self._values[id(new)] = value

    def value_of(self, tensor: Tensor) -> Tensor | None:
        """Return the value of a tensor if it is known."""
        if tensor.device.type == "cpu":
            return tensor if tensor.numel() <= MAX_NUMEL else None
        return self._values.get(id(tensor))

    def answer(self, func: Untyped, used: list[Tensor], args: Untyped, kwargs: Untyped) -> Untyped:
        """Run an op that asks for values on the known values; None when it does not or they are not."""
        if func._overloadpacket not in _ASKS_VALUES:  # noqa: SLF001
            return None
        known = [self.value_of(tensor) for tensor in used]
        if any(value is None for value in known):
            return None
        found = self._run(func, args, kwargs)
        made = map_tensors(found, lambda tensor: tensor.to("meta"))
        for tensor, value in zip(tensors_in(made), tensors_in(found), strict=True):
            self.learn(tensor, value)
        return made

    def follow(self, func: Untyped, used: list[Tensor], args: Untyped, kwargs: Untyped, out: Untyped) -> None:
        """Compute the values of an op's results if those of its inputs are known, else forget them."""
        made = [tensor for tensor in tensors_in(out) if tensor.device.type == "meta"]
        if not made:
            return
        small = all(tensor.numel() <= MAX_NUMEL for tensor in made)
        if not small or _RANDOM in func.tags or any(self.value_of(tensor) is None for tensor in used):
            for tensor in made:
                self.forget(id(tensor))
            return
        if not used and _ATEN.empty is func._overloadpacket:  # noqa: SLF001
            return
        try:
            values = list(tensors_in(self._run(func, args, kwargs)))
        except (RuntimeError, NotImplementedError):
            return
        for tensor, value in zip(tensors_in(out), values, strict=False):
            if tensor.device.type == "meta":
                self.learn(tensor, value)

    def _run(self, func: Untyped, args: Untyped, kwargs: Untyped) -> Untyped:
        def known(tensor: Tensor) -> Tensor:
            value = self.value_of(tensor)
            return tensor if value is None else value

        options = map_tensors(kwargs, known)
        if "device" in options:
            options["device"] = torch.device("cpu")
        return func(*map_tensors(args, known), **options)

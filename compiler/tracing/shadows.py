"""Values of small tensors that do not depend on weights: masks, positions, lengths, shapes as tensors.

A forward often asks such tensors for a value (is any token masked? how long is this clip?). Meta tensors
have none, so each small result whose inputs are known is computed a second time on the CPU. Values that do
depend on weights can be assumed where a forward insists: choices are then taken in turn, so that every
expert has its share, and a number that is asked for is one.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from ..running.nesting import Untyped, map_tensors, tensors_in

MAX_NUMEL: Final = 1 << 19
_MOST_CHOSEN: Final = 1 << 24
"""The same where choices are assumed: each token has a number for every expert it may take, chosen or not."""
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
_CHOOSES: Final = {
    _ATEN.argmax.default: 1,
    _ATEN.argmin.default: 1,
    _ATEN.max.dim: 1,
    _ATEN.min.dim: 1,
    _ATEN.multinomial.default: 3,
    _ATEN.sort.default: 1,
    _ATEN.sort.stable: 1,
    _ATEN.topk.default: 2,
}
"""Ops whose last result says which of several was taken, with the place of the axis among the arguments."""
_CHECKS: Final = frozenset({_ATEN.all, _ATEN._is_all_true})  # noqa: SLF001
"""Ops that models check their own results with."""


def _is_count(func: Untyped, made: Tensor) -> bool:
    """Say whether an op checks results, or makes whole numbers of others."""
    packet = func._overloadpacket  # noqa: SLF001
    whole = packet is _ATEN._to_copy and not made.is_floating_point()  # noqa: SLF001
    return packet in _CHECKS or whole


def _crowd(chosen: Tensor, options: int) -> None:
    """Let all rows choose the first option, and the others in turn, where that leaves none out."""
    rows, width = chosen.shape
    if width > 1 and rows * (width - 1) >= options - 1:
        others = torch.arange(rows * (width - 1)).remainder(options - 1) + 1
        chosen[:, 0], chosen[:, 1:] = 0, others.view(rows, width - 1)
    elif width == 1:
        chosen[options:] = 0


class Shadows:
    """Known values by the identity of the meta tensor they belong to."""

    def __init__(self, *, assume: bool = False, crowded: bool = False) -> None:
        self._values: dict[int, Tensor] = {}
        self.assume = assume
        self._largest = _MOST_CHOSEN if assume else MAX_NUMEL
        self._crowded = crowded
        self.asked = False
        """Whether a value was asked for that is not known."""

    def learn(self, tensor: Tensor, value: Tensor) -> None:
        """Remember the value of a meta tensor if it is small."""
        if value.device.type == "cpu" and value.numel() <= self._largest:
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
            return tensor if tensor.numel() <= self._largest else None
        return self._values.get(id(tensor))

    def told(self, tensor: Tensor) -> Tensor | None:
        """Return the value of a tensor that is asked for, assumed if it is not known and that is allowed."""
        value = self.value_of(tensor)
        if value is not None:
            return value
        self.asked = True
        if not self.assume or tensor.numel() > self._largest:
            return None
        fill = 0 if tensor.dtype is torch.bool else 1
        self.learn(tensor, torch.full(tensor.shape, fill, dtype=tensor.dtype))
        return self.value_of(tensor)

    def _all_known(self, tensors: list[Tensor]) -> bool:
        return all(self.told(tensor) is not None for tensor in tensors)

    def answer(self, func: Untyped, used: list[Tensor], args: Untyped, kwargs: Untyped) -> Untyped:
        """Run an op that asks for values on the known values; None when it does not or they are not."""
        packet = func._overloadpacket  # noqa: SLF001
        if packet not in _ASKS_VALUES:
            return None
        if packet is _ATEN.nonzero and self.assume and self.value_of(used[0]) is None:
            return None  # as if all were chosen, which is what meta tensors answer: never too little
        if not self._all_known(used):
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
        small = all(tensor.numel() <= self._largest for tensor in made)
        if not small or _RANDOM in func.tags or any(self.value_of(tensor) is None for tensor in used):
            for tensor in made:
                self._overwrite(tensor)
            if self.assume:
                self._suppose(func, args, made)
        elif not used and _ATEN.empty is func._overloadpacket:  # noqa: SLF001
            self._start_empty(made)
        else:
            self._compute(func, args, kwargs, out)

    def _compute(self, func: Untyped, args: Untyped, kwargs: Untyped, out: Untyped) -> None:
        try:
            values = list(tensors_in(self._run(func, args, kwargs)))
        except (RuntimeError, NotImplementedError):
            return
        for tensor, value in zip(tensors_in(out), values, strict=False):
            if tensor.device.type == "meta":
                self.learn(tensor, value)

    def _start_empty(self, made: list[Tensor]) -> None:
        """Take whole numbers that are not set yet for zeros: they are put in one by one."""
        for tensor in made:
            if not tensor.is_floating_point():
                self.learn(tensor, torch.zeros(tensor.shape, dtype=tensor.dtype))

    def _suppose(self, func: Untyped, args: Untyped, made: list[Tensor]) -> None:
        """Assume what follows from weights: which of several is chosen, how many there are."""
        if func in _CHOOSES:
            self._choose(args, made[-1], _CHOOSES[func])
        elif made[0].numel() <= self._largest and _is_count(func, made[0]):
            self.learn(made[0], torch.ones(made[0].shape, dtype=made[0].dtype))

    def _overwrite(self, tensor: Tensor) -> None:
        """Forget a value that is replaced by an unknown one, and those of the views that share it."""
        old = self._values.get(id(tensor))
        if old is not None:
            storage = old.untyped_storage()._cdata  # noqa: SLF001
            for key in [k for k, v in self._values.items() if v.untyped_storage()._cdata == storage]:  # noqa: SLF001
                self.forget(key)

    def _choose(self, args: Untyped, indices: Tensor, place: int) -> None:
        """Assume that the first ones are chosen, each row going on where the one before ended.

        Where there are more rows than it takes for every option to have its turn, all choose the first as
        well: no expert can get more than every row, and one that gets as much is what memory must hold. Where
        it is crowded all rows choose the same: a loop over experts holds what the last one made meanwhile.
        """
        axis = args[place] if len(args) > place and args[place] is not None else -1
        options = args[0].shape[axis] if args[0].dim() else 1
        if indices.numel() > self._largest or not options:
            return
        chosen = torch.arange(indices.numel()).remainder(options).reshape(indices.shape)
        if chosen.dim() > 1 and axis in {-1, chosen.dim() - 1} and 1 < options > chosen.shape[-1]:
            if self._crowded:
                chosen[...] = torch.arange(chosen.shape[-1])
            else:
                _crowd(chosen.view(-1, chosen.shape[-1]), options)
        self.learn(indices, chosen)

    def _run(self, func: Untyped, args: Untyped, kwargs: Untyped) -> Untyped:
        def known(tensor: Tensor) -> Tensor:
            value = self.value_of(tensor)
            return tensor if value is None else value

        options = map_tensors(kwargs, known)
        if "device" in options:
            options["device"] = torch.device("cpu")
        return func(*map_tensors(args, known), **options)

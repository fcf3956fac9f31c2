"""A tensor that some hosts have and the others know the shape of.

Between the units of a plan every host runs the same code of the model. What a unit of another host
computed is there as a tensor of the right shape and dtype without values. An operation between units is
computed where its tensors are; on the other hosts it yields the shape. Where they are on different
hosts, or values are asked for, they are brought: all hosts know the same of who has what, so nothing
has to be negotiated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import nn

from ...running.nesting import map_tensors, tensors_in
from .wire import Wire

_ASKS: Final = frozenset(
    {
        "__bool__", "__contains__", "__float__", "__index__", "__int__", "__repr__", "allclose", "any_value",
        "argwhere", "bincount", "equal", "is_nonzero", "item", "masked_select", "nonzero", "numpy", "tolist",
        "unique", "unique_consecutive",
    }
)  # fmt: skip
"""What cannot be answered from a shape."""
_STAYS: Final = frozenset({"cpu", "cuda"})


class Road:
    """How tensors get from host to host, and where they are put here."""

    def __init__(self, wire: Wire, device: torch.device) -> None:
        self.wire, self.device = wire, device
        self.me = wire.me
        self.all = frozenset(range(len(wire.hosts)))

    def carry(
        self, tensor: torch.Tensor, origin: int, target: int, device: torch.device | None = None
    ) -> torch.Tensor:
        """Take part in bringing a tensor from one host to another; return what this host has of it then."""
        if self.me == origin:
            self.wire.send(tensor, target)
        elif self.me == target:
            return self.wire.receive(tensor, origin, device or self.device)
        return tensor


class Held(torch.Tensor):
    """A tensor between units."""

    plain: torch.Tensor
    """The values where this host has them, else a tensor on the meta device."""
    holders: frozenset[int]
    home: int
    """The host it is sent from."""
    road: Road

    @staticmethod
    def of(plain: torch.Tensor, holders: frozenset[int], home: int, road: Road) -> Held:
        """Return a tensor with the knowledge of who has it."""
        made = (plain if type(plain) in _OF_TORCH else _shape(plain)).as_subclass(Held)
        made.plain, made.holders, made.home, made.road = plain, holders, home, road
        return made

    def bring(self, target: int) -> None:
        """Let a host have it too."""
        if target not in self.holders:
            self.plain = self.road.carry(self.plain, self.home, target)
            self.holders |= {target}

    def everywhere(self) -> torch.Tensor:
        """Let every host have it, and return it."""
        for target in sorted(self.road.all - self.holders):
            self.bring(target)
        return self.plain

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401  # torch's protocol
        """Run an operation where its tensors are."""
        del types
        with torch._C.DisableTorchFunctionSubclass():  # noqa: SLF001  # what torch's own subclasses do
            return _run(func, tuple(args), dict(kwargs or {}))


_OF_TORCH: Final = frozenset({torch.Tensor, nn.Parameter, nn.Buffer})
"""Kinds that can be seen as another kind; kinds of other libraries are kept beside their shape."""


def _shape(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def _run(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
    held = [tensor for tensor in tensors_in((args, kwargs)) if isinstance(tensor, Held)]
    road, name = held[0].road, getattr(func, "__name__", "")
    if name == "__get__":
        return _attribute(func, held[0])
    if name in _ASKS:
        for tensor in held:
            tensor.everywhere()
    holders = _together(held)
    here = road.me in holders
    result = func(*_taken(args, here), **_taken(kwargs, here)) if here else _shaped(func, name, args, kwargs)
    if name.endswith("_") and not name.endswith("__"):
        held[0].holders = holders  # others have what it was before
    home = held[0].home if held[0].home in holders else min(holders)
    if holders == road.all:
        return result
    return map_tensors(result, lambda made: Held.of(made, holders, home, road))


def _attribute(func: Callable[..., Any], tensor: Held) -> Any:  # noqa: ANN401
    """Return an attribute; of a tensor without values it is as if it were here."""
    owner = getattr(func, "__self__", None)
    here = tensor.road.me in tensor.holders
    if not here and owner is torch.Tensor.device:
        return tensor.road.device
    if not here and owner is torch.Tensor.is_meta:
        return False
    found = func(tensor.plain)
    if isinstance(found, torch.Tensor):
        return Held.of(found, tensor.holders, tensor.home, tensor.road)
    return found


def _together(held: Sequence[Held]) -> frozenset[int]:
    """Return the hosts that have all of some tensors; what is apart is brought to the first one's home."""
    common = frozenset.intersection(*(tensor.holders for tensor in held))
    if not common:
        home = held[0].home
        for tensor in held:
            tensor.bring(home)
        return frozenset.intersection(*(tensor.holders for tensor in held))
    return common


def _taken(value: Any, here: bool) -> Any:  # noqa: ANN401, FBT001
    def plain(tensor: torch.Tensor) -> torch.Tensor:
        if isinstance(tensor, Held):
            return tensor.plain if here or tensor.plain.is_meta else tensor.plain.to("meta")
        return tensor if here else tensor.to("meta")

    return map_tensors(value, plain)


def _shaped(func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
    """Run an operation for the shape of its result."""
    args, kwargs = _taken(args, here=False), _taken(kwargs, here=False)
    if name in _STAYS:
        return args[0]
    if name == "to":
        args = tuple("meta" if isinstance(item, str) else item for item in args)
    args = tuple(torch.device("meta") if isinstance(item, torch.device) else item for item in args)
    if kwargs.get("device") is not None:
        kwargs["device"] = torch.device("meta")
    return func(*args, **kwargs)

"""Writes down every op of a forward, the call it ran in, and the life of every tensor.

Each call gets its own view of its arguments, so that a tensor can be on one device for the caller
and on another for the module. Nothing here knows devices; `device_reads` adds what ops say of them.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final, TypeAlias

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from ...ir import ModuleTree
from ..running.nesting import Lent, Untyped, give_back, lent, map_tensors, tensors_in, to_meta
from ..running.sites import Kinds
from .alive_now import WITHOUT_META
from .inside import inside
from .shadows import Shadows
from .trace import HOST, UNKNOWN, Call, Enter, Leave, Op, Origin, Step, Trace, Value
from .writes import Write

Args: TypeAlias = tuple[Untyped, ...]
Kwargs: TypeAlias = dict[str, Untyped]

_ATEN: Final = torch.ops.aten
_INDEXING: Final = frozenset(
    {_ATEN.index, _ATEN.index_put, _ATEN.index_put_, _ATEN._unsafe_index, _ATEN._unsafe_index_put}  # noqa: SLF001
)
_REMEMBERED: Final = "_made_in_a_former_trace"
_COPYING: Final = frozenset({_ATEN.copy_, _ATEN._to_copy, _ATEN.copy, _ATEN.set_})  # noqa: SLF001


class _Reference(weakref.ref[Tensor]):
    """Tells the recorder which value is gone."""

    __slots__ = ("key", "storage", "value")
    key: int
    storage: int
    value: int


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch declares nothing there
    """Collects calls, steps and values while it is the active dispatch mode."""

    def __init__(
        self, tree: ModuleTree, *, assume: bool = False, crowded: bool = False, on_host: bool = False
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tree = tree
        self.calls: list[list[int]] = []
        self.steps: list[Step] = []
        self.values: list[Value] = []
        self.deaths: dict[int, int] = {}
        self.stack: list[int] = []
        self.paused = False
        self.on_host = on_host
        """Whether attention is as the CPU computes it, where that fuses less than accelerators."""
        self.shadows = Shadows(assume=assume, crowded=crowded)
        self.pending: int | None = None
        """The device reference of the function call that is running, if it names one."""
        self.attempt = ""
        """The op that was tried last, for the note when it fails."""
        self._known: dict[int, _Reference] = {}
        self._storages: dict[int, list[int]] = {}
        self._kept: list[Tensor] = []
        self._lent: list[list[Lent]] = []

    @property
    def call(self) -> int:
        """The innermost call that is running; -1 outside."""
        return self.stack[-1] if self.stack else -1

    def add(self, tensor: Tensor, origin: Origin, **facts: Untyped) -> int:
        """Number a tensor that was not seen before."""
        index = len(self.values)
        key, nbytes = _storage(tensor)
        storage = self._storages.setdefault(key, [index, 0])
        storage[1] += 1
        value = Value(
            nbytes, tensor.nbytes, origin, storage[0], len(self.steps), -1, width=tensor.itemsize, **facts
        )
        self.values.append(value)
        reference = _Reference(tensor, self._forget)
        reference.key, reference.storage, reference.value = id(tensor), key, index
        self._known[id(tensor)] = reference
        return index

    def _forget(self, reference: weakref.ref[Tensor]) -> None:
        assert isinstance(reference, _Reference)  # noqa: S101  weakref hands back what it was given
        self.deaths[reference.value] = len(self.steps) - 1
        if self._known.get(reference.key) is reference:
            del self._known[reference.key]
            self.shadows.forget(reference.key)
        storage = self._storages[reference.storage]
        storage[1] -= 1
        if not storage[1]:  # the allocator may hand out the address again
            del self._storages[reference.storage]

    def knows(self, tensor: Tensor) -> bool:
        """Say whether a tensor has a number already."""
        return id(tensor) in self._known

    def keep(self, tensors: Iterable[Tensor]) -> None:
        """Hold on to tensors whose end is not to be seen: weights and inputs."""
        self._kept.extend(tensors)

    def number(self, tensor: Tensor) -> int:
        """Return the number of a tensor; one never seen is a constant, which loaders leave on the CPU."""
        known = self._known.get(id(tensor))
        if known is not None:
            return known.value
        self.keep((tensor,))
        remembered = tensor.device.type == "meta" and hasattr(tensor, _REMEMBERED)
        made = UNKNOWN if remembered or _storage(tensor)[0] in self._storages else HOST
        reference = self.pending if self.pending is not None else made
        return self.add(tensor, Origin.CONSTANT, reference=reference, step=-1)

    def __torch_dispatch__(
        self, func: Untyped, types: Untyped, args: Args = (), kwargs: Kwargs | None = None
    ) -> Untyped:
        """Run one op on meta tensors and record it."""
        kwargs = kwargs or {}
        if self.paused:
            return func(*args, **kwargs)
        self.attempt = str(func)
        used = [*tensors_in(args), *tensors_in(kwargs)] if kwargs else list(tensors_in(args))
        numbers = [self.number(tensor) for tensor in used]
        out = self.shadows.answer(func, used, args, kwargs)
        if out is None:
            out = self._run(func, used, args, kwargs)
            self.shadows.follow(func, used, args, kwargs, out)
        written = tuple(self.number(tensor) for tensor in _written(func, args, kwargs))
        self.record(func, used, numbers, out, self._flops(func, args, kwargs, out), written)
        self._look_inside(func, args, kwargs)
        return out

    def _run(self, func: Untyped, used: list[Tensor], args: Args, kwargs: Kwargs) -> Untyped:
        meta = [tensor for tensor in used if tensor.device.type == "meta"]
        if meta and len(meta) < len(used):
            args, kwargs = to_meta(args), to_meta(kwargs)
        if meta and "device" in kwargs:
            kwargs = {**kwargs, "device": torch.device("meta")}
        if meta and (substitute := WITHOUT_META.get(func._overloadpacket)):  # noqa: SLF001
            return substitute(*args, **kwargs)
        return func(*args, **kwargs)

    def _flops(self, func: Untyped, args: Args, kwargs: Kwargs, out: Untyped) -> int:
        if func._overloadpacket in WITHOUT_META:  # noqa: SLF001  torch counts nothing for it
            return int(2 * out.numel() * args[0].shape[-1])
        formula = flop_registry.get(func._overloadpacket)  # noqa: SLF001
        return 0 if formula is None else int(formula(*args, **kwargs, out_val=out))

    def record(
        self,
        func: Untyped,
        used: list[Tensor],
        numbers: list[int],
        out: Untyped,
        flops: int,
        written: tuple[int, ...] = (),
    ) -> None:
        """Write down one op: what it used, made and changed in place, and the device it named."""
        packet = getattr(func, "_overloadpacket", None)
        strict, loose = _split(packet, used, numbers)
        outputs = [tensor for tensor in tensors_in(out) if id(tensor) not in self._known]
        step = len(self.steps)
        made = tuple(self.add(tensor, Origin.OP, step=step) for tensor in outputs)
        reference = self._reference(used, outputs)
        facts = (str(func), self.call, strict, loose, made, reference, flops)
        self.steps.append(Write(*facts, written=written) if written else Op(*facts))

    def _look_inside(self, func: Untyped, args: Args, kwargs: Kwargs) -> None:
        """Write down what the op that was recorded last has inside, on the host and on a card."""
        packet = func._overloadpacket  # noqa: SLF001
        host, card = (inside(packet, args, kwargs, on_host=on_host) for on_host in (True, False))
        step = self.steps[-1]
        if (host or card) and isinstance(step, Op):
            self.steps[-1] = replace(step, on_host=host, on_card=card)

    def _reference(self, used: list[Tensor], outputs: list[Tensor]) -> int | None:
        if used or not outputs:
            return self.pending if self.pending is not None and outputs else None
        if outputs[0].device.type == "cpu":
            return HOST
        return UNKNOWN if self.pending is None else self.pending

    def enter(self, module: int, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
        """Open a call and return its arguments as the module is to see them.

        Where autograd watches they are the caller's own: views would change the order of the way back.
        """
        call = len(self.calls)
        self.calls.append([module, self.call, len(self.steps), -1])
        memo: dict[int, Tensor] = {}
        pairs: list[tuple[int, int]] = []

        def alias(tensor: Tensor) -> Tensor:
            if torch.is_grad_enabled():
                return tensor
            if id(tensor) not in memo:
                outer = self.number(tensor)
                memo[id(tensor)] = inner = self.again(tensor)
                pairs.append((outer, self.add(inner, Origin.ENTRY, step=len(self.steps))))
            return memo[id(tensor)]

        seen = map_tensors(args, alias), map_tensors(kwargs, alias)
        self._lent.append(list(lent((args, kwargs), seen)))
        self.steps.append(Enter(call, tuple(pairs)))
        self.stack.append(call)
        return seen

    def leave(self, result: object) -> None:
        """Close the innermost call."""
        call = self.stack.pop()
        for outer, inner, before in self._lent.pop():
            give_back(outer, inner, before)
        self.calls[call][3] = len(self.steps)
        results = tuple(dict.fromkeys(self.number(tensor) for tensor in tensors_in(result)))
        self.steps.append(Leave(call, results))

    def again(self, tensor: Tensor) -> Tensor:
        """Return another tensor object over the same storage, unseen by the trace."""
        paused, self.paused = self.paused, True
        try:
            same = tensor.view_as(tensor) if tensor.layout is torch.strided else tensor.clone()
            self.shadows.pass_on(tensor, same)
            return same
        finally:
            self.paused = paused

    def remember(self) -> None:
        """Mark what outlives this forward: functions that remember by device hand it out in the next one.

        There it is new again on each device, as when a loaded model asks for the first time.
        """
        for reference in self._known.values():
            tensor = reference()
            if tensor is not None and self.values[reference.value].origin is Origin.OP:
                setattr(tensor, _REMEMBERED, True)

    def finish(self, cache: Iterable[Tensor], logits: Iterable[Tensor], kinds: Kinds) -> Trace:
        """Freeze what was recorded; the results must still be alive."""
        end = len(self.steps)
        kept = tuple(dict.fromkeys(self.number(tensor) for tensor in cache))
        scores = tuple(dict.fromkeys(self.number(tensor) for tensor in logits))
        values = tuple(replace(value, died=self.deaths.get(i, end)) for i, value in enumerate(self.values))
        calls = tuple(Call(*row) for row in self.calls)
        return Trace(self.tree, calls, tuple(self.steps), values, kinds, kept, scores)


def _storage(tensor: Tensor) -> tuple[int, int]:
    try:
        storage = tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):
        return -id(tensor), tensor.nbytes
    return storage._cdata, storage.nbytes()  # noqa: SLF001


def _written(func: Untyped, args: Args, kwargs: Kwargs) -> Iterator[Tensor]:
    """Yield the tensors an op says it changes in place."""
    for position, argument in enumerate(func._schema.arguments):  # noqa: SLF001
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = args[position] if position < len(args) else kwargs.get(argument.name)
            yield from tensors_in(given)


def _split(
    packet: Untyped, used: list[Tensor], numbers: list[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if packet in _COPYING:
        return tuple(numbers[:1]), ()
    indexing = packet in _INDEXING
    strict: list[int] = []
    loose: list[int] = []
    for position, (tensor, number) in enumerate(zip(used, numbers, strict=True)):
        free = tensor.dim() == 0 or (indexing and position > 0)
        (loose if free else strict).append(number)
    return tuple(dict.fromkeys(strict)), tuple(dict.fromkeys(loose))

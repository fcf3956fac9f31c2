"""Follows what a forward says about devices: ``x.device`` reads, ``.to``, ``device=`` arguments.

A ``device`` object is new at each read, so its identity tells which tensor it was read from; an op
made "on ``x.device``" follows ``x`` whatever the plan. Attention is recorded as the one fused op it
is on every real device, not as the sequence that meta tensors would take.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ...ir import CPU
from ..running.nesting import Untyped, map_tensors
from .fused import fused
from .record import Args, Kwargs, Recorder
from .trace import HOST, UNKNOWN, Op, Origin
from .unfused import is_fused_on_cards, less, padded_nbytes, unfused_sizes


class DeviceReads(TorchFunctionMode):
    """Remembers which tensor every ``device`` object was read from, and records moves."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder
        self._origins: dict[int, tuple[torch.device, int]] = {}

    def __torch_function__(
        self, func: Untyped, types: Untyped, args: Args = (), kwargs: Kwargs | None = None
    ) -> Untyped:
        """Run one function of torch, following the devices it reads and names."""
        recorder, kwargs = self.recorder, kwargs or {}
        if recorder.paused:
            return func(*args, **kwargs)
        if getattr(func, "__self__", None) is _DEVICE:
            return self._read(args[0], func(*args))
        if func is _ATTENTION and (out := self._attention(*args, **kwargs)) is not None:
            return out
        if func in _MOVES:
            return self._move(func, args, kwargs)
        if func in _SPELLED:
            return func(self._told(args[0]), *args[1:])
        if func is torch.Tensor.__getitem__:
            args = (args[0], _index(args[1]))
        if func in _FROM_VALUES and args and not isinstance(args[0], Tensor):
            args = (map_tensors(args[0], self._told), *args[1:])
        return self._call(func, args, kwargs)

    def _told(self, tensor: Tensor) -> Tensor:
        value = self.recorder.shadows.told(tensor)
        return tensor if value is None else value

    def _call(self, func: Untyped, args: Args, kwargs: Kwargs) -> Untyped:
        recorder, device = self.recorder, kwargs.get("device")
        if device is None:
            return func(*args, **kwargs)
        before, recorder.pending = recorder.pending, self.refer(device)
        try:
            if func in _FROM_VALUES and args and not isinstance(args[0], Tensor):
                return self._from_values(func, args, kwargs)
            return func(*args, **{**kwargs, "device": _on_meta(device)})
        finally:
            recorder.pending = before

    def _from_values(self, func: Untyped, args: Args, kwargs: Kwargs) -> Tensor:
        """Make a tensor from numbers on meta, and remember the numbers."""
        recorder = self.recorder
        on_host: Tensor = func(*args, **{**kwargs, "device": "cpu"})
        if str(_on_meta(kwargs["device"])) != "meta":
            return on_host
        recorder.paused = True
        try:
            made = on_host.to("meta")
        finally:
            recorder.paused = False
        recorder.shadows.learn(made, on_host)
        recorder.number(made)
        return made

    def _read(self, tensor: Tensor, device: torch.device) -> torch.device:
        """Say that a meta tensor is on an accelerator, as it will be: some models do other things on meta."""
        told = torch.device(_ACCELERATOR, 0) if device.type == "meta" else device
        self._origins[id(told)] = (told, self.recorder.number(tensor))
        return told

    def refer(self, device: object) -> int | None:
        """Return the reference a device argument stands for; None when there is none."""
        if device is None:
            return None
        known = self._origins.get(id(device))
        if known is not None:
            return known[1]
        return HOST if str(device).partition(":")[0] == "cpu" else UNKNOWN

    def _move(self, func: Untyped, args: Args, kwargs: Kwargs) -> Untyped:
        reference, args, kwargs = self._target(func, args, kwargs)
        out = args[0] if func in _PLAIN_MOVES else torch.Tensor.to(*args, **kwargs)
        if reference is None or reference == UNKNOWN:
            return out
        recorder = self.recorder
        number = recorder.number(out)
        moved = recorder.again(out)
        step = len(recorder.steps)
        made = recorder.add(moved, Origin.OP, step=step)
        recorder.steps.append(Op("to", recorder.call, (number,), (), (made,), reference))
        return moved

    def _target(self, func: Untyped, args: Args, kwargs: Kwargs) -> tuple[int | None, Args, Kwargs]:
        tensor = args[0]
        if func is torch.Tensor.cpu:
            return HOST, args, {}
        if func in _PLAIN_MOVES:
            return UNKNOWN, args, {}
        target = kwargs.get("device", kwargs.get("other", args[1] if len(args) > 1 else None))
        rest = {key: item for key, item in kwargs.items() if key not in {"device", "other"}}
        if isinstance(target, Tensor):
            return self.recorder.number(target), (tensor, target.dtype, *args[2:]), rest
        if not isinstance(target, torch.device | str):
            return None, args, kwargs
        kept = [arg for arg in args[1:] if arg is not target and arg is not None]
        if "dtype" not in rest and not any(isinstance(arg, torch.dtype) for arg in kept):
            kept.insert(0, tensor.dtype)
        return self.refer(target), (tensor, *kept), rest

    def _attention(self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None,
                   dropout_p: float = 0.0, *_rest: Untyped, **options: Untyped) -> Tensor | None:  # fmt: skip
        recorder, odd = self.recorder, value.shape[-1] != query.shape[-1]
        same_heads = query.shape[:2] == key.shape[:2] or options.get("enable_gqa", False)
        if query.dim() != 4 or not same_heads or query.device.type != "meta":
            return None
        on_card = is_fused_on_cards(query, key, value, attn_mask)
        if (dropout_p or odd) if recorder.on_host else (torch.is_grad_enabled() and not on_card):
            return None  # what the way back needs of the steps is kept
        used = [query, key, value] + ([attn_mask] if attn_mask is not None else [])
        numbers = [recorder.number(tensor) for tensor in used]
        recorder.attempt = "scaled_dot_product_attention"
        batch, heads, length, _ = query.shape
        told = dict(zip(("is_causal", "scale", "enable_gqa"), _rest, strict=False)) | options
        recorder.paused = True
        try:
            made, *extra = fused(query, key, value, attn_mask, CPU if recorder.on_host else "")
            taken = () if on_card and not odd else unfused_sizes(query, key, value, attn_mask, **told)
        finally:
            recorder.paused = False
        flops = 2 * batch * heads * length * key.shape[-2] * (query.shape[-1] + value.shape[-1])
        recorder.record("scaled_dot_product_attention", used, numbers, (made, *extra), flops)
        step, beside = recorder.steps[-1], sum(tensor.nbytes for tensor in (made, *extra))
        if isinstance(step, Op):
            taken, padded = less(taken, beside), padded_nbytes(query, attn_mask)
            there = (padded,) * bool(padded) if on_card else taken
            recorder.steps[-1] = replace(step, on_host=taken if odd else (), on_card=there)
        return made


def _on_meta(device: Untyped) -> Untyped:
    """Return the device that stands in for one: the CPU for itself, meta for every other."""
    return device if str(device).partition(":")[0] == "cpu" else torch.device("meta")


def _index(index: Untyped) -> Untyped:
    """Return an index with lists of numbers as tensors, so that their values are not lost on the way."""
    if isinstance(index, tuple):
        return tuple(map(_index, index))
    numbers = isinstance(index, list) and index and all(type(item) is int for item in index)
    return torch.tensor(index) if numbers else index


_DEVICE: Final = torch.Tensor.device
_ATTENTION: Final = nn.functional.scaled_dot_product_attention
_ACCELERATOR: Final = "xpu"
"""A kind of accelerator that models hardly ever have code of their own for."""
_FROM_VALUES: Final = frozenset({torch.tensor, torch.as_tensor, torch.asarray})
_SPELLED: Final = frozenset({torch.Tensor.tolist, torch.Tensor.__format__})
"""Ask for values without an op."""
_PLAIN_MOVES: Final = frozenset({torch.Tensor.cpu, torch.Tensor.cuda})
_MOVES: Final = _PLAIN_MOVES | {torch.Tensor.to, torch.Tensor.type_as}

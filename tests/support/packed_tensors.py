"""Tensors of a class of their own, as libraries for quantisation have them: bytes, scales, and a context."""

from __future__ import annotations

import torch
from torch.utils._pytree import tree_map_only

aten = torch.ops.aten


class Packed(torch.Tensor):
    """Numbers in eight bits with a scale for each row; ``step`` is its context."""

    @staticmethod
    def __new__(cls, data, scale, step):
        return torch.Tensor._make_wrapper_subclass(cls, data.shape, dtype=scale.dtype, device=data.device)

    def __init__(self, data, scale, step):
        self.data_, self.scale, self.step = data, scale, step

    @classmethod
    def of(cls, tensor):
        """Pack a tensor."""
        scale = tensor.abs().amax(1, keepdim=True) / 127
        return cls((tensor / scale).round().to(torch.int8), scale, 1.0)

    def plain(self):
        """Return its numbers."""
        return self.data_.to(self.scale.dtype) * self.scale * self.step

    def __tensor_flatten__(self):
        return ["data_", "scale"], self.step

    @classmethod
    def __tensor_unflatten__(cls, inner, step, _size, _stride):
        return cls(inner["data_"], inner["scale"], step)

    @classmethod
    def __torch_dispatch__(cls, func, _types, args=(), kwargs=None):
        if func is aten.detach.default:
            return cls(args[0].data_, args[0].scale, args[0].step)
        if func is aten.mul_.Tensor:  # what is written to keeps its form
            args[0].scale.mul_(args[1])
            return args[0]
        plain = tree_map_only(Packed, lambda tensor: tensor.plain(), (args, kwargs or {}))
        return func(*plain[0], **plain[1])


class Shifted(Packed):
    """One whose numbers are packed once more, and shifted."""

    @staticmethod
    def __new__(cls, inner, shift):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=shift.device)

    def __init__(self, inner, shift):
        self.inner, self.shift = inner, shift

    @classmethod
    def of(cls, tensor):
        return cls(Packed.of(tensor - 1), torch.ones(1))

    def plain(self):
        return self.inner.plain() + self.shift

    def __tensor_flatten__(self):
        return ["inner", "shift"], None

    @classmethod
    def __tensor_unflatten__(cls, inner, _context, _size, _stride):
        return cls(inner["inner"], inner["shift"])

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func is aten.detach.default:
            return cls(args[0].inner, args[0].shift)
        return super().__torch_dispatch__(func, types, args, kwargs)

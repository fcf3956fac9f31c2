"""Measures the live-tensor peak of a real forward on the CPU: storages alive, by weak references."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor, nn, no_grad
from torch.utils._python_dispatch import TorchDispatchMode


class LiveBytes(TorchDispatchMode):
    def __init__(self, known: set[int]) -> None:
        super().__init__()
        self.known = known
        self.alive: dict[int, list] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for item in out if isinstance(out, list | tuple) else [out]:
            if isinstance(item, Tensor) and not item.is_meta:
                self._see(item)
        return out

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.known:
            return
        if key not in self.alive:
            self.alive[key] = [storage.nbytes(), 0, []]
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
        entry = self.alive[key]
        entry[1] += 1
        entry[2].append(weakref.ref(tensor, lambda _: self._drop(key)))

    def _drop(self, key: int) -> None:
        entry = self.alive[key]
        entry[1] -= 1
        if entry[1] == 0:
            self.now -= entry[0]
            del self.alive[key]


def measured_peak(model: nn.Module, inputs: dict[str, Tensor]) -> int:
    tensors = [*model.parameters(), *model.buffers(), *inputs.values()]
    live = LiveBytes({tensor.untyped_storage()._cdata for tensor in tensors})
    with no_grad(), live:
        model(**inputs)
    return live.peak


def shared_heads_are_fused() -> bool:
    """Say whether this torch's CPU fuses attention over keys that all heads share: its choice 0 is not fused.

    From 2.15 on it does. A trace counts on it nowhere, as a card may not, and tells more than is taken then.
    """
    query, shared = torch.ones(1, 2, 1, 8), torch.ones(1, 1, 1, 8)
    return torch._fused_sdp_choice(query, shared, shared) != 0

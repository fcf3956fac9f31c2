"""Measures what is alive in a real run on the CPU: storages, by weak references.

A tensor may be gone while autograd keeps its storage, so the storages themselves are watched.
"""

from __future__ import annotations

import weakref

import torch
from torch import Tensor, nn, no_grad
from torch.utils._python_dispatch import TorchDispatchMode


class LiveBytes(TorchDispatchMode):
    def __init__(self, known: set[int]) -> None:
        super().__init__()
        self.known = known
        self.alive: dict[int, weakref.ref] = {}
        self.now = self.peak = 0
        self.events: list[tuple[int, int]] = []
        """What is made and let go, in order: a number and bytes; none when it is let go."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run an op; a safe softmax marks hidden scores and rows without any beside, unseen from here."""
        if func is torch.ops.aten._safe_softmax.default:
            marks = [torch.empty(shape, dtype=torch.bool) for shape in (args[0].shape, args[0].shape[:-1])]
            for mark in (*marks, args[0].new_empty(())):
                self.see(mark)
        out = func(*args, **(kwargs or {}))
        for item in out if isinstance(out, list | tuple) else [out]:
            if isinstance(item, Tensor) and not item.is_meta:
                self.see(item)
        return out

    def see(self, tensor: Tensor) -> None:
        """Count a storage from here on, until it is gone."""
        storage = tensor.untyped_storage()
        key, nbytes = storage._cdata, storage.nbytes()
        if key in self.known or key in self.alive:
            return

        number = len(self.events)

        def gone(_reference: object) -> None:
            self.events.append((number, 0))
            self.now -= nbytes
            del self.alive[key]

        self.alive[key] = weakref.ref(storage, gone)
        self.events.append((number, nbytes))
        self.now += nbytes
        self.peak = max(self.peak, self.now)


def measured_peak(model: nn.Module, inputs: dict[str, Tensor]) -> int:
    tensors = [*model.parameters(), *model.buffers(), *inputs.values()]
    live = LiveBytes({tensor.untyped_storage()._cdata for tensor in tensors})
    with no_grad(), live:
        model(**inputs)
    return live.peak


def shared_heads_are_fused() -> bool:
    """Say whether this torch's CPU fuses attention over keys that all heads share: its choice 0 is not fused.

    From 2.14 on it does. A trace counts on it nowhere, as a card may not, and tells more than is taken then.
    """
    query, shared = torch.ones(1, 2, 1, 8), torch.ones(1, 1, 1, 8)
    return torch._fused_sdp_choice(query, shared, shared) != 0

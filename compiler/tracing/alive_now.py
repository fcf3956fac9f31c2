"""Counts what is alive on the meta device while code runs, storage by storage.

A tensor may be gone while autograd keeps its storage, so the storages themselves are watched.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..running.nesting import Untyped, tensors_in
from .inside import inside


def _grouped_product(
    left: Tensor, right: Tensor, offs: Tensor | None = None, *_rest: Untyped, **_options: Untyped
) -> Tensor:
    """Stand in for a grouped matrix product, whose meta kernel takes bfloat16 only."""
    if left.dim() == 2 and right.dim() == 2 and offs is not None:
        return left.new_empty(offs.shape[0], left.shape[0], right.shape[1])
    return left.new_empty(*left.shape[:-1], right.shape[-1])


WITHOUT_META: Final = {torch.ops.aten._grouped_mm: _grouped_product}  # noqa: SLF001
"""Stand-ins for ops that cannot run on the meta device as they are."""


class AliveNow(TorchDispatchMode):
    """Counts the storages that are made while it is active, until each is gone, in multiples of ``whole``."""

    def __init__(self, whole: int = 1, *, on_host: bool = True) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._whole, self._on_host = whole, on_host
        self.nbytes = self.peak = 0
        self._seen: dict[int, weakref.ref[Untyped]] = {}
        self.sizes: dict[int, int] = {}
        """Bytes of each storage that is there."""
        self.events: list[tuple[int, int]] = []
        """What was made and let go, in order: a number and bytes; none when it is let go."""
        self._made = 0

    def __torch_dispatch__(
        self, func: Untyped, types: Untyped, args: Untyped = (), kwargs: Untyped = None
    ) -> Untyped:
        """Run one op and count what it made."""
        function: Untyped = WITHOUT_META.get(func._overloadpacket, func)  # noqa: SLF001
        out = function(*args, **(kwargs or {}))
        for tensor in tensors_in(out):
            self.see(tensor)
        within = inside(func._overloadpacket, args, kwargs or {}, on_host=self._on_host)  # noqa: SLF001
        hidden = tuple(map(self._rounded, within))
        self.look(hidden)
        made = [(self._number(), nbytes) for nbytes in hidden if nbytes]
        self.events += [*made, *((number, 0) for number, _ in made)]
        return out

    def _number(self) -> int:
        self._made += 1
        return self._made

    def _rounded(self, nbytes: int) -> int:
        return -(-nbytes // self._whole) * self._whole

    def leave_out(self, tensors: Iterable[Tensor]) -> None:
        """Count nothing for storages that are there already."""
        for storage in (tensor.untyped_storage() for tensor in tensors):
            self._seen[storage._cdata] = weakref.ref(storage)  # noqa: SLF001

    def see(self, tensor: Tensor) -> None:
        """Count the storage of a tensor from here on, if it is on the meta device."""
        if not tensor.is_meta or tensor.layout is not torch.strided:
            return
        storage = tensor.untyped_storage()
        key, nbytes = storage._cdata, self._rounded(storage.nbytes())  # noqa: SLF001
        if (known := self._seen.get(key)) is not None and known() is not None:
            return
        number = self._number()

        def gone(_reference: Untyped) -> None:
            self.nbytes -= nbytes
            del self._seen[key], self.sizes[key]
            self.events += [(number, 0)] * (nbytes > 0)

        self._seen[key] = weakref.ref(storage, gone)
        self.sizes[key] = nbytes
        self.nbytes += nbytes
        self.events += [(number, nbytes)] * (nbytes > 0)
        self.look()

    def look(self, hidden: tuple[int, ...] = ()) -> None:
        """Take in what is there now, with what an op has hidden inside."""
        self.peak = max(self.peak, self.nbytes + sum(hidden))


class EachAlive(AliveNow):  # type: ignore[no-untyped-call]  # torch declares nothing there
    """Remembers what was there at the peak, which a whole forward has too much of."""

    highest: tuple[int, ...] = ()

    def look(self, hidden: tuple[int, ...] = ()) -> None:
        """Take in what is there now, each by itself."""
        before = self.peak
        super().look(hidden)
        if self.peak > before:
            self.highest = (*self.sizes.values(), *hidden)

    def begin(self) -> None:
        """Forget what was there before now."""
        self.peak, self.highest = self.nbytes, tuple(self.sizes.values())

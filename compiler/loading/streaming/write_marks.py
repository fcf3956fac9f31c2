"""What tells of a write to a tensor, without reading all of it."""

from __future__ import annotations

from typing import Any, Final

import torch

_STRETCHES: Final = 8
_STRETCH: Final = 128
"""In how many places, and how many bytes at most, are looked at to see whether a tensor was written to."""


class Stretches:
    """Some of the bytes of a tensor on the host, where they are."""

    __slots__ = ("_address", "_bytes", "_of", "firsts", "nbytes")

    def __init__(self, of: torch.Tensor) -> None:
        total = of.nbytes
        self.nbytes = total if total <= _STRETCH else _STRETCH - (_STRETCH - total) % (_STRETCHES - 1)
        step = (total - self.nbytes) // (_STRETCHES - 1)
        self.firsts = range(0, _STRETCHES * step, step) if step else (0,) * _STRETCHES
        flat = of.detach().view(-1).view(torch.uint8)
        self._of, self._address = of, of.data_ptr()
        self._bytes: Any = flat.as_strided((_STRETCHES, self.nbytes), (step, 1)).numpy()

    def is_of(self, rest: torch.Tensor) -> bool:
        """Say whether a tensor is the one, where it was."""
        return rest is self._of and rest.data_ptr() == self._address

    def read(self) -> bytes:
        """Return them as they are now."""
        found: bytes = self._bytes.tobytes()
        return found


def mark_of_writes(used: torch.Tensor) -> tuple[object, ...]:
    """Return what tells of a write to a tensor in use, and of other memory given to it."""
    return version_of(used), *place_of(used)


def version_of(tensor: torch.Tensor) -> int:
    """Return how often a tensor was written to in place; one made in inference mode does not tell."""
    return 0 if tensor.is_inference() else tensor._version  # noqa: SLF001


def place_of(tensor: torch.Tensor) -> tuple[object, ...]:
    """Return where a tensor is in which memory; one made of others, or by a transform, does not tell."""
    try:
        memory = tensor.untyped_storage()._cdata  # noqa: SLF001  # some devices tell no address
    except RuntimeError:
        return ()
    return memory, tensor.storage_offset(), tensor.shape, tensor.stride()

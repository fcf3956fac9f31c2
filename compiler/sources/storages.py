"""What a live tensor is stored in, its bytes, the parts of a packed one; torch is never imported."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

# torch tensors are declared as Any: subclasses override what the walk asks of them.
Tensor: TypeAlias = Any
PLAIN: Final = frozenset({"Tensor", "Parameter", "Buffer", "FakeTensor"})


def is_lazy(tensor: Tensor) -> bool:
    """Say whether a tensor has no shape before its module is called."""
    try:
        return tensor.shape is None
    except RuntimeError:
        return True


def storage_key(tensor: Tensor) -> int:
    """Return the address of the storage, or of the tensor where there is no single storage to ask."""
    try:
        return int(tensor.untyped_storage()._cdata)  # noqa: SLF001
    except (NotImplementedError, RuntimeError, ValueError):
        return id(tensor)


def storage_nbytes(tensor: Tensor, default: int) -> int:
    """Return the bytes of the storage a tensor is a view of; ``default`` where there is no single one."""
    try:
        return int(tensor.untyped_storage().nbytes())
    except (NotImplementedError, RuntimeError, ValueError):
        return default


def packed_parts(tensor: Tensor) -> list[Tensor]:
    """Return the tensors a packed tensor subclass is made of; nothing for an ordinary tensor."""
    flatten = getattr(type(tensor), "__tensor_flatten__", None)
    if flatten is None or type(tensor).__name__ in PLAIN:
        return []
    names, _ = tensor.__tensor_flatten__()
    return [getattr(tensor, name) for name in names]


def elements_nbytes(tensor: Tensor) -> int:
    """Return the bytes of a tensor's elements, of all that a packed one is made of."""
    parts = packed_parts(tensor)
    return sum(map(elements_nbytes, parts)) if parts else int(tensor.numel()) * int(tensor.element_size())

"""The module tree of a model as flat columns in pre-order.

A subtree is a contiguous range of modules and of tensors, so its bytes are one subtraction of
prefix sums. Models with a million modules exist; an object per module would cost a kilobyte each,
columns that share their strings cost tens of bytes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import cached_property
from itertools import accumulate

from .names import join_path


class Role(IntEnum):
    """What a tensor is to its module."""

    PARAMETER = 0
    BUFFER = 1
    TRANSIENT = 2
    """A buffer registered with ``persistent=False``: in no checkpoint, made by the constructor."""


@dataclass(frozen=True)
class ModuleTree:
    """Modules ``0..n-1`` in pre-order (0 is the root) and their own tensors in the same order."""

    names: tuple[str, ...]
    """Own name of each module; ``""`` for the root."""
    classes: tuple[str, ...]
    """Class name of each module, ``Linear``."""
    parents: tuple[int, ...]
    """Index of each module's parent; -1 for the root."""
    ends: tuple[int, ...]
    """One past the last module of each module's subtree."""
    first_tensors: tuple[int, ...]
    """Where each module's own tensors start; one entry more than there are modules."""
    tensor_names: tuple[str, ...]
    """Own name of each tensor; parameters of a module come before its buffers."""
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    """torch's names without the prefix, ``bfloat16``; checkpoint dtypes are translated to them."""
    roles: tuple[Role, ...]
    storages: tuple[int, ...]
    """Tensors with equal numbers share storage; the number is the index of the first of them."""
    nbytes: tuple[int, ...] | None = None
    """Bytes each tensor costs, 0 for all but the first of a storage; None until annotate-sizes."""
    objects: tuple[int, ...] | None = field(default=None, compare=False, repr=False)
    """As ``storages`` but for the very same tensor object; None when no tensor is a view of another."""
    eighths: tuple[int, ...] | None = field(default=None, compare=False, repr=False)
    """Size of each tensor as accelerate counts it, in eighths of a byte and with shared storage counted
    at every name; None until annotate-sizes."""

    twins: tuple[int, ...] | None = field(default=None, compare=False, repr=False)
    """Modules with equal numbers are one module object; None when every module has one name."""

    def __len__(self) -> int:
        """Return the number of modules."""
        return len(self.names)

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """Full path of each module; parents come first, so one pass is enough."""
        paths: list[str] = []
        for name, parent in zip(self.names, self.parents, strict=True):
            paths.append(join_path(paths[parent], name) if parent > 0 else name)
        return tuple(paths)

    @cached_property
    def module_index(self) -> dict[str, int]:
        """Module index by path."""
        return {path: i for i, path in enumerate(self.paths)}

    @cached_property
    def owners(self) -> tuple[int, ...]:
        """Module index of each tensor."""
        spans = zip(self.first_tensors, self.first_tensors[1:], strict=False)
        return tuple(i for i, (start, end) in enumerate(spans) for _ in range(end - start))

    @cached_property
    def tensor_paths(self) -> tuple[str, ...]:
        """Full path of each tensor."""
        paths = self.paths
        return tuple(
            f"{paths[owner]}.{name}" if owner else name
            for owner, name in zip(self.owners, self.tensor_names, strict=True)
        )

    @cached_property
    def tensor_index(self) -> dict[str, int]:
        """Tensor index by path."""
        return {path: i for i, path in enumerate(self.tensor_paths)}

    @cached_property
    def modules_by_name(self) -> dict[str, list[int]]:
        """Modules of each name, in order; the root is called by none."""
        return _by_name(self.names, 1)

    @cached_property
    def tensors_by_name(self) -> dict[str, list[int]]:
        """Tensors of each name, in order."""
        return _by_name(self.tensor_names, 0)

    @cached_property
    def prefix_bytes(self) -> tuple[int, ...]:
        """Bytes of all tensors before each index; needs ``nbytes``."""
        if self.nbytes is None:
            msg = "sizes are not annotated"
            raise ValueError(msg)
        return tuple(accumulate(self.nbytes, initial=0))

    def sized(self, nbytes: tuple[int, ...], eighths: tuple[int, ...] | None = None) -> ModuleTree:
        """Return the tree with these sizes; what is already known about its names is kept."""
        tree = replace(self, nbytes=nbytes, eighths=eighths if eighths is not None else self.eighths)
        tree.__dict__.update({name: self.__dict__[name] for name in _NAMING & self.__dict__.keys()})
        return tree

    def tensors(self, module: int) -> range:
        """Return the indices of the tensors in a module's subtree."""
        return range(self.first_tensors[module], self.first_tensors[self.ends[module]])

    def own_tensors(self, module: int) -> range:
        """Return the indices of a module's own tensors."""
        return range(self.first_tensors[module], self.first_tensors[module + 1])

    def children(self, module: int) -> list[int]:
        """Return the indices of a module's direct children, in order."""
        found, child, end = [], module + 1, self.ends[module]
        while child < end:
            found.append(child)
            child = self.ends[child]
        return found

    def subtree_bytes(self, module: int) -> int:
        """Return the bytes of a module's subtree, shared storage counted where it comes first."""
        prefix = self.prefix_bytes
        return prefix[self.first_tensors[self.ends[module]]] - prefix[self.first_tensors[module]]

    def covered(self, path: str) -> range:
        """Return the tensors a module or tensor path names; empty when it names nothing."""
        module = self.module_index.get(path)
        if module is not None:
            return self.tensors(module)
        tensor = self.tensor_index.get(path)
        return range(0) if tensor is None else range(tensor, tensor + 1)

    @cached_property
    def digest(self) -> str:
        """Return the structural digest: names, roles, shapes, dtypes and ties of all tensors.

        The first 16 hex digits of SHA-256. Classes and sizes are left out: they may change without
        any tensor of the model changing.
        """
        digest = hashlib.sha256()
        rows = zip(self.tensor_paths, self.roles, self.shapes, self.dtypes, self.storages, strict=True)
        for index, (path, role, shape, dtype, storage) in enumerate(rows):
            tie = self.tensor_paths[storage] if storage != index else ""
            digest.update(f"{path}\t{role:d}\t{dtype}\t{shape}\t{tie}\n".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()[:16]


# Cached properties that do not depend on sizes.
_NAMING = frozenset({"paths", "module_index", "owners", "tensor_paths", "tensor_index", "digest",
                     "modules_by_name", "tensors_by_name"})  # fmt: skip


def _by_name(names: tuple[str, ...], start: int) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for row in range(start, len(names)):
        found.setdefault(names[row], []).append(row)
    return found


def group_storages(keys: list[int]) -> tuple[int, ...]:
    """Number arbitrary storage keys as `ModuleTree.storages` wants them: by first index."""
    first: dict[int, int] = {}
    return tuple(map(first.setdefault, keys, range(len(keys))))

"""What a model ties and its checkpoint stores under several names: the same values, or tensors of their own.

Classes may know their checkpoints by other names. The tensors of a tie have few and telling ones (a head, a
table), so where most names are others, the stored one is what ends alike, if one alone does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from ...ir import ModuleTree
from .checkpoint_index import CheckpointIndex, same_bytes

if TYPE_CHECKING:
    from torch import nn

_TELLING = 2
"""Parts of a name, from its end: ``lm_head.weight``."""


def by_names_of(model: nn.Module, tree: ModuleTree, index: CheckpointIndex) -> CheckpointIndex:
    """Return a checkpoint in which what a model may tie has the model's names; its class may know others."""
    from .renaming import renaming_of

    known = set(tree.tensor_paths)
    tied = {tree.shapes[at] for at, storage in enumerate(tree.storages) if at != storage}
    odd = [name for name, each in index.tensors.items() if name not in known and each.shape in tied]
    renaming = renaming_of(model, known) if odd else None
    renamed = {} if renaming is None else {name: renaming.one(name) for name in odd}
    found = {
        to: index.tensors[name] for name, (to, merged) in renamed.items() if merged is None and to in known
    }
    return replace(index, tensors={**index.tensors, **found}) if found else index


def stored_apart(tree: ModuleTree, index: CheckpointIndex) -> tuple[str, ...]:
    """Return the paths that a model ties to an earlier one, and that are stored with other values."""
    return tuple(
        path for path, (first, other) in _stored_twice(tree, index) if not same_bytes(index, first, other)
    )


def _stored_twice(tree: ModuleTree, index: CheckpointIndex) -> Iterator[tuple[str, tuple[str, str]]]:
    tied = {storage for at, storage in enumerate(tree.storages) if at != storage}
    known = sum(path in index.tensors for path in tree.tensor_paths) if tied else 0
    rows = zip(tree.tensor_paths, tree.storages, strict=True)
    wanted = tuple({_end(path) for path, storage in rows if storage in tied})
    ends: dict[str, list[str]] = {}
    for name in index.tensors if 2 * known < len(tree.tensor_paths) else ():
        if name.endswith(wanted):  # few of a mixture's ten thousands
            ends.setdefault(_end(name), []).append(name)
    first: dict[int, str] = {}
    for at, (path, storage) in enumerate(zip(tree.tensor_paths, tree.storages, strict=True)):
        if storage in tied:
            alike = [
                name for name in ends.get(_end(path), ()) if index.tensors[name].shape == tree.shapes[at]
            ]
            alike = [path] if path in index.tensors else alike
            if len(alike) == 1 and first.setdefault(storage, alike[0]) != alike[0]:
                yield path, (first[storage], alike[0])


def _end(name: str) -> str:
    return ".".join(name.split(".")[-_TELLING:])

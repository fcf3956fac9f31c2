"""A checkpoint whose names, ties or shapes only its class tells: the class is built, without weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from math import prod
from pathlib import Path

from ...ir import Atomic, Diagnostic, Diagnostics, Model, ModuleTree, Plan, PlanError
from ...ir.rules.configs import STORED_NAMES
from .checkpoint_index import CheckpointIndex
from .kept_dtypes import loaded_tree
from .live import no_split_classes
from .named_tensors import NamedTensor, tree_of_tensors
from .stored_ties import by_names_of, stored_apart


def lower_built(
    name: str,
    folder: Path,
    index: CheckpointIndex,
    tensors: Iterable[NamedTensor],
    dtype: str | None,
    diagnostics: Diagnostics,
) -> Plan | None:
    """Return the plan of the model transformers builds for a folder; None, and a finding, if it cannot.

    ``tensors`` are those of the index, unpacked if they are so.
    """
    from .config import build_from_config

    try:
        model = build_from_config(folder, dtype=dtype)
    except PlanError as error:
        first = error.diagnostics[0]
        diagnostics.add(_unnamed(name, (first.message, *first.notes)))
        return None
    tree = replace(loaded_tree(model), objects=None)
    tree = _untied(tree, stored_apart(tree, by_names_of(model, tree, index)))
    if not _is_of_a_size(tree, tensors):
        why = f"`{type(model).__name__}` as `config.json` describes it is a model of another size"
        diagnostics.add(_unnamed(name, (why,)))
        return None
    present = set(tree.classes)
    classes = (Atomic(kind, by_class=True, added=True) for kind in no_split_classes(model) if kind in present)
    return Plan(
        model=Model(name),
        constraints=(*classes, *(Atomic(path, added=True) for path in _repeated(tree))),
        tree=tree,
    )


def _untied(tree: ModuleTree, paths: Iterable[str]) -> ModuleTree:
    """Return a tree whose tensors at these paths are their own, as transformers unties them on loading."""
    own = {tree.tensor_index[path] for path in paths}
    storages = (at if at in own else storage for at, storage in enumerate(tree.storages))
    return replace(tree, storages=tuple(storages)) if own else tree


def _unnamed(name: str, notes: tuple[str, ...]) -> Diagnostic:
    message = f"the plan of `{name}` has the names in its files, and its model may have others"
    help_ = "install the transformers that has the class, then compile again"
    return Diagnostic(STORED_NAMES, message, notes=notes, help=help_)


def _is_of_a_size(tree: ModuleTree, tensors: Iterable[NamedTensor]) -> bool:
    """Say whether a built model may be the one in the files: about as many numbers, whatever their names."""
    rows = enumerate(zip(tree.shapes, tree.storages, strict=True))
    built = sum(prod(shape) for index, (shape, storage) in rows if index == storage)
    stored = sum(prod(tensor.shape) for tensor in tensors)
    return stored <= 2 * built and built <= 2 * stored


def _repeated(tree: ModuleTree) -> tuple[str, ...]:
    """Return the patterns of what a file of these names would never split: layers that repeat each other."""
    rows = zip(tree.tensor_paths, tree.dtypes, tree.shapes, strict=True)
    return tree_of_tensors(NamedTensor(path, dtype, shape, 0) for path, dtype, shape in rows)[1]

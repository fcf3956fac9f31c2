"""The module tree in the plan file: what can be derived is not stored, so it cannot be wrong.

Parents are stored as distances, ends and tensor offsets follow from them; tensors of one shape,
dtype, role and size share a row of ``kinds``; only tensors that share storage are listed as such.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from ..ir import ModuleTree, Role
from .columns import (
    MalformedError,
    Reader,
    Table,
    Writer,
    check_path_lengths,
    from_optional,
    grouped,
    pack_column,
    to_optional,
)

TABLES = {
    "tree": ("sized", "counted", "objects", "twins"),
    "modules": ("name", "class", "up", "tensors"),
    "tensors": ("name", "kind"),
    "kinds": ("dims", "dtype", "role", "nbytes", "eighths"),
    "kind_dims": ("size",),
    "shared": ("tensor", "first"),
    "views": ("tensor", "first"),
    "twins": ("module", "first"),
}
"""The columns of each table, in the order in which they are written."""


def write_tree(tree: ModuleTree | None, writer: Writer) -> dict[str, Table]:
    """Return the tables of a tree; empty ones for a plan without a tree."""
    if tree is None:
        return {name: dict.fromkeys(columns, pack_column(())) for name, columns in TABLES.items()}
    check_path_lengths(_path_lengths(tree), len(tree) + len(tree.tensor_names))
    optional = (tree.nbytes, tree.eighths, tree.objects, tree.twins)
    flags = [[int(column is not None)] for column in optional]
    numbers = [*flags, *_write_modules(tree, writer), *_write_tensors(tree, writer), *_write_groups(tree)]
    columns = iter([pack_column(column) for column in numbers])
    return {name: {column: next(columns) for column in names} for name, names in TABLES.items()}


def _write_modules(tree: ModuleTree, writer: Writer) -> list[list[int]]:
    counts = [end - start for start, end in zip(tree.first_tensors, tree.first_tensors[1:], strict=False)]
    up = [0, *(index - parent for index, parent in enumerate(tree.parents) if index)]
    return [writer.strings(tree.names), writer.strings(tree.classes), up, counts]


def _write_tensors(tree: ModuleTree, writer: Writer) -> list[list[int]]:
    absent = (None,) * len(tree.dtypes)
    rows = zip(
        tree.shapes,
        tree.dtypes,
        tree.roles,
        absent if tree.nbytes is None else tree.nbytes,
        absent if tree.eighths is None else tree.eighths,
        strict=True,
    )
    known: dict[tuple[tuple[int, ...], str, Role, int | None, int | None], int] = {}
    kind = [known.setdefault(row, len(known)) for row in rows]
    return [
        writer.strings(tree.tensor_names),
        kind,
        [len(shape) for shape, *_ in known],
        writer.strings(dtype for _, dtype, *_ in known),
        [int(role) for _, _, role, _, _ in known],
        from_optional(nbytes for _, _, _, nbytes, _ in known),
        from_optional(eighths for *_, eighths in known),
        [size for shape, *_ in known for size in shape],
    ]


def _write_groups(tree: ModuleTree) -> list[list[int]]:
    """Return the exceptions to: every tensor has its own storage and object, every module its own."""
    tensors, modules = range(len(tree.storages)), range(len(tree))
    return [
        *_exceptions(tree.storages, tensors),
        *_exceptions(tree.storages if tree.objects is None else tree.objects, tree.storages),
        *_exceptions(modules if tree.twins is None else tree.twins, modules),
    ]


def _exceptions(found: Sequence[int], expected: Sequence[int]) -> tuple[list[int], list[int]]:
    rows = [
        (i, first) for i, (first, usual) in enumerate(zip(found, expected, strict=True)) if first != usual
    ]
    return [i for i, _ in rows], [first for _, first in rows]


def read_tree(reader: Reader) -> ModuleTree | None:
    """Return the tree of a plan file, None if it has none; everything is checked."""
    flags = reader.rows("tree", *TABLES["tree"])
    names, classes, up, counts = reader.rows("modules", *TABLES["modules"])
    if any(flag not in ([], [0], [1]) for flag in flags) or bool(flags[0]) != bool(names):
        raise MalformedError("table `tree` does not fit table `modules`")
    if not names:
        return None
    sized, counted, with_objects, with_twins = (flag == [1] for flag in flags)
    tensor_names, kind = reader.rows("tensors", *TABLES["tensors"])
    if sum(counts) != len(tensor_names):
        raise MalformedError("the tensors of the modules do not add up")
    parents = _parents(up)
    kinds = _read_kinds(reader, kind, sized=sized, counted=counted)
    storages = _firsts(reader, "shared", list(range(len(kind))))
    objects = _firsts(reader, "views", storages)
    twins = _firsts(reader, "twins", list(range(len(names))))
    tree = ModuleTree(
        names=tuple(reader.strings(names)),
        classes=tuple(reader.strings(classes)),
        parents=tuple(parents),
        ends=tuple(_ends(parents)),
        first_tensors=tuple(accumulate(counts, initial=0)),
        tensor_names=tuple(reader.strings(tensor_names)),
        shapes=tuple([kinds.shapes[row] for row in kind]),
        dtypes=tuple([kinds.dtypes[row] for row in kind]),
        roles=tuple([kinds.roles[row] for row in kind]),
        storages=tuple(storages),
        nbytes=tuple([kinds.nbytes[row] for row in kind]) if sized else None,
        objects=tuple(objects) if with_objects else None,
        eighths=tuple([kinds.eighths[row] for row in kind]) if counted else None,
        twins=tuple(twins) if with_twins else None,
    )
    if tree.names[0]:
        raise MalformedError("the root of the module tree has a name")
    check_path_lengths(_path_lengths(tree), len(tree) + len(kind))
    return tree


def _parents(up: list[int]) -> list[int]:
    if up[0] or any(not 0 < distance <= index for index, distance in enumerate(up) if index):
        raise MalformedError("a module has no parent before it")
    return [index - distance if index else -1 for index, distance in enumerate(up)]


def _ends(parents: list[int]) -> list[int]:
    """Return where subtrees end; refuses modules that are not in pre-order."""
    ends = [len(parents)] * len(parents)
    open_modules: list[int] = []
    for module, parent in enumerate(parents):
        while open_modules and open_modules[-1] != parent:
            ends[open_modules.pop()] = module
        if module and not open_modules:
            raise MalformedError("the modules are not in pre-order")
        open_modules.append(module)
    return ends


class _Kinds(NamedTuple):
    shapes: list[tuple[int, ...]]
    dtypes: list[str]
    roles: list[Role]
    nbytes: list[int]
    eighths: list[int]


def _read_kinds(reader: Reader, kind: list[int], *, sized: bool, counted: bool) -> _Kinds:
    dims, dtypes, roles, nbytes, eighths = reader.rows("kinds", *TABLES["kinds"])
    (sizes,) = reader.rows("kind_dims", *TABLES["kind_dims"])
    if kind and max(kind) >= len(dims):
        raise MalformedError(f"there is no kind {max(kind)}")
    wrong = any((size > 0) != sized for size in nbytes) or any((size > 0) != counted for size in eighths)
    if wrong or any(role > max(Role) for role in roles):
        raise MalformedError("a kind of tensor has an unknown role or size")
    return _Kinds(
        grouped(sizes, dims, "kinds"),
        reader.strings(dtypes),
        [Role(role) for role in roles],
        [size or 0 for size in to_optional(nbytes)],
        [size or 0 for size in to_optional(eighths)],
    )


def _firsts(reader: Reader, table: str, usual: list[int]) -> list[int]:
    """Return the first of each one's group, where the table lists the exceptions to the usual."""
    found = list(usual)
    for member, first in zip(*reader.rows(table, *TABLES[table]), strict=True):
        if not first <= member < len(found):
            raise MalformedError(f"table `{table}` names a row that does not exist or comes later")
        found[member] = first
    if any(found[first] != first for first in found):
        raise MalformedError(f"table `{table}` names a row that is not the first of its group")
    return found


def _path_lengths(tree: ModuleTree) -> list[int]:
    """Return the length of every path of the tree without making the paths."""
    lengths: list[int] = []
    for name, parent in zip(tree.names, tree.parents, strict=True):
        lengths.append(len(name) + (lengths[parent] + 1 if parent > 0 else 0))
    tensors = (
        len(name) + (lengths[owner] + 1 if owner else 0)
        for owner, name in zip(tree.owners, tree.tensor_names, strict=True)
    )
    return [*lengths, *tensors]

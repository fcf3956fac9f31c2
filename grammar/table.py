"""The rows of a module table to a module tree: rows may come in any order, siblings keep theirs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from ..ir import Diagnostic, Diagnostics, Label, ModuleTree, Role, Span, TieGroup, group_storages, join_path
from ..ir.changes import Fixes, line_removed
from ..ir.rules.language import BROKEN_TABLE, MALFORMED_NUMBER
from .readers import WordReader
from .syntax import ModuleLine, TensorLine, Word

_TYPE: Final = re.compile(r"(.+)\[((?:\d{1,18}(?:,\d{1,18})*)?)\]")
_DEEPEST: Final = 500
_UNNAMED: Final = "Module"


@dataclass(slots=True)
class _Tensor:
    name: str
    path: str
    dtype: str
    shape: tuple[int, ...]
    role: Role
    nbytes: int | None
    span: Span | None


@dataclass(slots=True)
class _Module:
    name: str
    class_name: str | None = None
    children: dict[str, _Module] = field(default_factory=dict)
    tensors: list[_Tensor] = field(default_factory=list)


class TableBuilder:
    """Collects rows and builds the tree once all are there."""

    def __init__(self, reader: WordReader, diagnostics: Diagnostics) -> None:
        self._reader = reader
        self._diagnostics = diagnostics
        self._modules: dict[str, _Module] = {}
        self._tensors: dict[str, _Tensor] = {}
        self._shares: list[tuple[str, str, Span | None]] = []

    def read(self, row: ModuleLine | TensorLine, span: Span | None) -> None:
        """Take in one row, which may name many modules or tensors."""
        size = None if row.size is None else self._reader.size(row.size)
        if isinstance(row, ModuleLine):
            for path in self._reader.expand(row.path):
                self._add_module(path, row.class_name.text, size, span)
            return
        read = self._type(row.type)
        if read is None:
            return
        role = Role.TRANSIENT if row.transient else row.role
        shares = self._reader.expand(row.shares) if row.shares else []
        for path in self._reader.expand(row.path):
            name = path.rpartition(".")[2]
            self._add_tensor(_Tensor(name, path, read[0], read[1], role, size, span))
            self._shares += [(path, other, span) for other in shares]

    def _type(self, word: Word) -> tuple[str, tuple[int, ...]] | None:
        match = _TYPE.fullmatch(word.text)
        if match is None:
            message = f"`{word.text[:60]}` is not a tensor type"
            at = Label(word.span, "not a shape") if word.span else None
            hint = "write the sizes with commas, as in `float32[4,4]`"
            self._diagnostics.add(Diagnostic(MALFORMED_NUMBER, message, at, help=hint))
            return None
        return match[1], tuple(map(int, match[2].split(","))) if match[2] else ()

    def _add_module(self, path: str, class_name: str, size: int | None, span: Span | None) -> None:
        module = self._module(path, span)
        if module is None:
            return
        if module.class_name is not None:
            self._broken(f"module `{path or '.'}` has two rows", span, "keep one of them", line_removed(span))
        module.class_name = class_name
        if size is not None:
            weight = join_path(path, "weight")
            self._add_tensor(_Tensor("weight", weight, "uint8", (size,), Role.PARAMETER, size, span))

    def _module(self, path: str, span: Span | None) -> _Module | None:
        """Return the module at a path, made with its parents if it is new."""
        known = self._modules.get(path)
        if known is not None:
            return known
        names = path.split(".") if path else []
        if len(names) > _DEEPEST:
            self._broken(f"a module is nested more than {_DEEPEST} deep", span, "check the path")
            return None
        module, at = self._modules.setdefault("", _Module("")), ""
        for name in names:
            at = join_path(at, name)
            if at in self._tensors:
                self._broken(f"`{at}` is a tensor and a module", span, "rename one of them")
                return None
            module = module.children.setdefault(name, _Module(name))
            self._modules[at] = module
        return module

    def _add_tensor(self, tensor: _Tensor) -> None:
        owner = self._module(tensor.path.rpartition(".")[0], tensor.span)
        if owner is None:
            return
        if tensor.path in self._tensors or tensor.path in self._modules:
            first = self._tensors.get(tensor.path)
            either = line_removed(None if first is None else first.span, tensor.span)
            self._broken(f"`{tensor.path or '.'}` has two rows", tensor.span, "keep one of them", either)
            return
        self._tensors[tensor.path] = tensor
        owner.tensors.append(tensor)

    def _broken(self, message: str, span: Span | None, hint: str, fixes: Fixes = ()) -> None:
        at = Label(span, "in this row") if span else None
        self._diagnostics.add(Diagnostic(BROKEN_TABLE, message, at, help=hint, fixes=fixes))

    def tree(self, ties: Sequence[TieGroup]) -> ModuleTree | None:
        """Build the tree, or None without rows; ties and ``shares`` give tensors one storage."""
        if not self._modules:
            return None
        modules, parents, ends = _flatten(self._modules[""])
        tensors: list[_Tensor] = []
        starts = [0]
        for module in modules:
            tensors += sorted(module.tensors, key=lambda tensor: tensor.role is not Role.PARAMETER)
            starts.append(len(tensors))
        return ModuleTree(
            names=tuple(module.name for module in modules),
            classes=tuple(_UNNAMED if m.class_name is None else m.class_name for m in modules),
            parents=tuple(parents),
            ends=tuple(ends),
            first_tensors=tuple(starts),
            tensor_names=tuple(tensor.name for tensor in tensors),
            shapes=tuple(tensor.shape for tensor in tensors),
            dtypes=tuple(tensor.dtype for tensor in tensors),
            roles=tuple(tensor.role for tensor in tensors),
            storages=self._storages(tensors, ties),
            nbytes=self._nbytes(tensors),
        )

    def _nbytes(self, tensors: list[_Tensor]) -> tuple[int, ...] | None:
        sizes = [tensor.nbytes for tensor in tensors if tensor.nbytes is not None]
        if len(sizes) == len(tensors):
            return tuple(sizes)
        if sizes:
            bare = next(tensor for tensor in tensors if tensor.nbytes is None)
            message = f"tensor `{bare.path}` has no bytes, others have"
            self._broken(message, bare.span, "give every tensor its bytes, or none")
        return None

    def _storages(self, tensors: list[_Tensor], ties: Sequence[TieGroup]) -> tuple[int, ...]:
        index = {tensor.path: number for number, tensor in enumerate(tensors)}
        roots = list(range(len(tensors)))

        def root(number: int) -> int:
            while roots[number] != number:
                roots[number] = roots[roots[number]]
                number = roots[number]
            return number

        joined: Iterable[tuple[tuple[str, ...], Span | None]] = [
            *((tie.tensors, tie.span) for tie in ties),
            *(((path, other), span) for path, other, span in self._shares),
        ]
        for paths, span in joined:
            known = [index[path] for path in paths if path in index]
            for path in paths:
                if path not in index:
                    self._broken(f"`{path}` is not a tensor of the table", span, "name one that has a row")
            for number in known[1:]:
                roots[root(number)] = root(known[0])
        return group_storages([root(number) for number in range(len(tensors))])


def _flatten(root: _Module) -> tuple[list[_Module], list[int], list[int]]:
    """List modules in pre-order with their parents and the ends of their subtrees."""
    modules: list[_Module] = []
    parents: list[int] = []
    stack = [(root, -1)]
    while stack:
        module, parent = stack.pop()
        stack += [(child, len(modules)) for child in reversed(module.children.values())]
        modules.append(module)
        parents.append(parent)
    ends = list(range(1, len(modules) + 1))
    for number in range(len(modules) - 1, 0, -1):
        ends[parents[number]] = max(ends[parents[number]], ends[number])
    return modules, parents, ends

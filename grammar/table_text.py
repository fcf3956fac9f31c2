"""The module table of a tree: identical neighbours share their rows, whatever their number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from ..ir import ModuleTree, Role, TieGroup, exact_size, join_path
from .ranges import fold_names
from .syntax import ModuleLine, Path, TensorLine, Word
from .words import is_bare, path_of


def table_lines(tree: ModuleTree, ties: Sequence[TieGroup] = ()) -> Iterator[ModuleLine | TensorLine]:
    """Write the table in pre-order; storage that no tie line explains is written with ``shares``."""
    return _Table(tree, ties).rows()


class _Table:
    def __init__(self, tree: ModuleTree, ties: Sequence[TieGroup]) -> None:
        self._tree = tree
        self._shares = _unexplained(tree, ties)
        self._shapes = self._subtree_numbers()

    def rows(self) -> Iterator[ModuleLine | TensorLine]:
        """Write all rows, iteratively: deep models must not meet the recursion limit."""
        stack: list[tuple[int, Path, bool]] = [(0, Path(""), False)]
        while stack:
            module, path, in_stack = stack.pop()
            yield ModuleLine(path, Word(self._tree.classes[module]))
            yield from self._tensor_rows(module, path, in_stack=in_stack)
            stack += reversed(list(self._children(module, path, in_stack=in_stack)))

    def _children(self, module: int, path: Path, *, in_stack: bool) -> Iterator[tuple[int, Path, bool]]:
        names = self._tree.names
        for _, group in groupby(self._tree.children(module), self._shapes.__getitem__):
            children = [*group]
            if len(children) == 1 or path.literal:
                for child in children:
                    yield child, _below(path, names[child]), in_stack or names[child].isdigit()
                continue
            start = 0
            for text, count in fold_names([names[child] for child in children], in_stack=in_stack):
                child = children[start]
                below = in_stack or names[child].isdigit()
                yield child, Path(join_path(path.text, text)), below
                start += count

    def _tensor_rows(self, module: int, path: Path, *, in_stack: bool) -> Iterator[TensorLine]:
        tree = self._tree
        for key, group in groupby(tree.own_tensors(module), self._tensor_key):
            tensors = [*group]
            names = [tree.tensor_names[tensor] for tensor in tensors]
            if not path.literal and all(map(_simple, names)):
                paths = [Path(join_path(path.text, text)) for text, _ in fold_names(names, in_stack=in_stack)]
            else:
                paths = [_below(path, name) for name in names]
            role, kind, nbytes, shares = key
            size = None if nbytes is None else Word(exact_size(nbytes))
            target = None if shares is None else path_of(shares)
            transient = role is Role.TRANSIENT
            kept = Role.BUFFER if transient else role
            yield from (TensorLine(kept, each, Word(kind), size, target, transient) for each in paths)

    def _tensor_key(self, tensor: int) -> tuple[Role, str, int | None, str | None]:
        tree = self._tree
        kind = f"{tree.dtypes[tensor]}[{','.join(map(str, tree.shapes[tensor]))}]"
        nbytes = None if tree.nbytes is None else tree.nbytes[tensor]
        return tree.roles[tensor], kind, nbytes, self._shares.get(tensor)

    def _subtree_numbers(self) -> list[int]:
        """Give equal numbers to modules whose subtrees read the same; odd names keep theirs to themselves."""
        tree = self._tree
        known: dict[object, int] = {}
        numbers = [0] * len(tree)
        odd = [not _simple(name) for name in tree.names]
        for module in range(len(tree) - 1, -1, -1):
            children = tree.children(module)
            own = tree.own_tensors(module)
            odd[module] |= any(odd[child] for child in children)
            odd[module] |= not all(_simple(tree.tensor_names[tensor]) for tensor in own)
            rows = tuple((tree.tensor_names[tensor], self._tensor_key(tensor)) for tensor in own)
            below = tuple((tree.names[child], numbers[child]) for child in children)
            key = module if odd[module] else (tree.classes[module], rows, below)
            numbers[module] = known.setdefault(key, len(known))
        return numbers


def _simple(name: str) -> bool:
    """Say whether a name may stand in a pattern; a literal star may not, it would read as a wildcard."""
    return bool(name) and is_bare(name)


def _below(path: Path, name: str) -> Path:
    text = join_path(path.text, name)
    return Path(text, literal=path.literal or not is_bare(name))


def _unexplained(tree: ModuleTree, ties: Sequence[TieGroup]) -> dict[int, str]:
    """Return, for tensors whose storage no tie group explains, the path of the first that has it."""
    group_of = {path: number for number, tie in enumerate(ties) for path in tie.tensors}
    paths = tree.tensor_paths
    found: dict[int, str] = {}
    for tensor, storage in enumerate(tree.storages):
        group = group_of.get(paths[tensor])
        if storage != tensor and (group is None or group != group_of.get(paths[storage])):
            found[tensor] = paths[storage]
    return found

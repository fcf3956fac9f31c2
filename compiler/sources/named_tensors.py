"""A module tree from nothing but the names, shapes and bytes of tensors.

Names tell the nesting; numbered lists whose elements repeat each other are the blocks of a model,
which are never cut. Siblings get the order in which models use them: embeddings, blocks, norm, head.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from operator import itemgetter
from typing import Final, NamedTuple

from ...ir import ModuleTree, Role, group_storages

LIST_CLASS: Final = "ModuleList"
PLAIN_CLASS: Final = "Module"
EMBEDDINGS: Final = "embeddings"
EMBEDDINGS_CLASS: Final = "Embeddings"

_BUFFERS: Final = frozenset(
    {"running_mean", "running_var", "num_batches_tracked", "inv_freq", "position_ids", "masked_bias"}
)
_ORDER: Final = (
    (2, re.compile(r"^embedding_norm$")),
    (-2, re.compile(r"^pre_?(?:ln|layr?norm|layer_?norm)|^downsampling")),
    (
        4,
        re.compile(
            r"(?:^|_)heads?$|^output$|(?:embed|conv|proj)_out$|classifier|^score$|^fc$|^vocab_proj|^cls$"
        ),
    ),
    (3, re.compile(r"pooler")),
    (-4, re.compile(r"^wte$|^shared$|^tok_|token_emb|word_emb|^embed_tokens$")),
    (-3, re.compile(r"embed|embd|^wpe$|patch|(?:^|_)stem$|^conv_?(?:in|1|2)$|rotary|subsampl")),
    (-2, re.compile(r"vision|visual|image|audio|encoder$|^bn_?1$|^norm_?1$")),
    (-1, re.compile(r"projector|connector|^down_blocks$")),
    (2, re.compile(r"[nN]orm|^ln_?f$|^ln_?\d?$")),
    (3, re.compile(r"merger")),
    (1, re.compile(r"decoder|^up_blocks$")),
)
"""Where a name stands among its siblings, 0 being the blocks; the first pattern that matches counts."""
_FIRST_TENSORS: Final = {"weight": -2, "bias": -1}
_NUMBER: Final = re.compile(r"([0-9]+)")


class NamedTensor(NamedTuple):
    """One tensor as a file tells it."""

    path: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


class _Node:
    """A module while the tree is built."""

    __slots__ = ("blocks", "children", "kind", "tensors")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.tensors: list[tuple[str, NamedTensor]] = []
        self.kind = PLAIN_CLASS
        self.blocks = False


class _Rows:
    """The columns of a module tree while they fill."""

    def __init__(self) -> None:
        self.modules: list[tuple[str, str, int, int]] = []
        """Name, class, parent, number of the first tensor."""
        self.ends: list[int] = []
        self.tensors: list[tuple[str, NamedTensor, Role]] = []
        self.orders: dict[tuple[str, ...], list[str]] = {}
        """By the names of siblings; most modules have the names of another."""


def tree_of_tensors(
    tensors: Iterable[NamedTensor], *, root_class: str = PLAIN_CLASS, ties: Mapping[str, str] | None = None
) -> tuple[ModuleTree, tuple[str, ...]]:
    """Return the module tree and the patterns of what is never split: blocks, and embeddings that add up.

    ``ties`` maps a tensor to the one whose storage it shares. All tensors must have different names.
    """
    root = _nested(tensors)
    whole = _name_blocks(root)
    root.kind = root_class
    rows = _Rows()
    _fill(rows, root, "", -1)
    return _tree(rows, ties or {}), whole


def _nested(tensors: Iterable[NamedTensor]) -> _Node:
    listed = sorted(tensors, key=itemgetter(0))
    paths = {tensor.path for tensor in listed}
    root = _Node()
    nodes = {"": root}
    for tensor in listed:
        parent, _, name = tensor.path.rpartition(".")
        node = nodes.get(parent) or _module(nodes, parent, paths)
        while node is None:
            # Quantised formats keep `a.weight.absmax` beside `a.weight`: both are tensors of `a`.
            parent, _, inner = parent.rpartition(".")
            name = f"{inner}.{name}"
            node = nodes.get(parent) or _module(nodes, parent, paths)
        node.tensors.append((name, tensor))
    return root


def _module(nodes: dict[str, _Node], path: str, tensors: set[str]) -> _Node | None:
    """Return the module of a path, made with its parents; None if a tensor has the name of one of them."""
    if path in tensors:
        return None
    parent, _, name = path.rpartition(".")
    above = nodes.get(parent) or _module(nodes, parent, tensors)
    if above is None:
        return None
    node = nodes[path] = above.children[name] = _Node()
    return node


def _name_blocks(root: _Node) -> tuple[str, ...]:
    """Give the elements of block lists their class; return where they are. Lists inside are part of them."""
    exact, loose = _Signatures(with_shapes=True), _Signatures(with_shapes=False)
    patterns: dict[str, None] = {}

    def mark(node: _Node, path: tuple[str, ...]) -> None:
        for element in node.children.values():
            element.kind = _block_class(next((part for part in reversed(path) if not part.isdigit()), ""))
        node.blocks = True
        patterns[_pattern((*path, "0"))] = None

    def visit(node: _Node, path: tuple[str, ...]) -> None:
        elements = list(node.children.values())
        if path and path[-1] == EMBEDDINGS and _adds_up(node):
            node.kind = EMBEDDINGS_CLASS
            patterns[_pattern(path)] = None
            return
        if _is_list(node) and _repeats(elements, exact):
            mark(node, path)
            return
        for name, child in node.children.items():
            visit(child, (*path, name))
            node.blocks |= child.blocks
        if _is_list(node) and not node.blocks and _repeats(elements, loose):
            mark(node, path)

    visit(root, ())
    return tuple(sorted(patterns))


def _pattern(path: tuple[str, ...]) -> str:
    return ".".join("*" if part.isdigit() else part for part in path)


def _adds_up(node: _Node) -> bool:
    """Say whether a module has several parts and no list: embeddings add them up, on one device."""
    return len(node.children) + len(node.tensors) > 1 and not _has_list(node)


def _has_list(node: _Node) -> bool:
    return _is_list(node) or any(map(_has_list, node.children.values()))


def _is_list(node: _Node) -> bool:
    return bool(node.children) and not node.tensors and all(name.isdigit() for name in node.children)


def _repeats(elements: list[_Node], signatures: _Signatures) -> bool:
    """Say whether at least half of the elements have an equal among them, and all have parts."""
    if len(elements) < 2 or not all(element.children for element in elements):
        return False
    counts = Counter(signatures.of(element) for element in elements)
    return 2 * sum(count for count in counts.values() if count > 1) >= len(elements)


class _Signatures:
    """Numbers for structures: equal numbers mean equal names (and shapes and dtypes) all the way down."""

    def __init__(self, *, with_shapes: bool) -> None:
        self._with_shapes = with_shapes
        self._numbers: dict[object, int] = {}
        self._known: dict[int, int] = {}

    def of(self, node: _Node) -> int:
        """Return the number of a node's structure."""
        known = self._known.get(id(node))
        if known is not None:
            return known
        if self._with_shapes:
            own: tuple[object, ...] = tuple([(name, tensor[1:3]) for name, tensor in node.tensors])
        else:
            own = tuple([name for name, _ in node.tensors])
        if node.children:
            own += tuple([(name, self.of(child)) for name, child in node.children.items()])
        number = self._numbers.setdefault(own, len(self._numbers))
        self._known[id(node)] = number
        return number


def _block_class(list_name: str) -> str:
    """Return ``TransformerBlock`` for ``transformer_blocks``, ``Layer`` for ``layers``."""
    words = re.sub(r"\W", "_", list_name.removesuffix("s")).split("_")
    kind = "".join(word[:1].upper() + word[1:] for word in words)
    return kind if kind.isidentifier() else "Block"


def _fill(rows: _Rows, node: _Node, name: str, parent: int) -> None:
    index = len(rows.modules)
    kind = LIST_CLASS if node.kind is PLAIN_CLASS and _is_list(node) else node.kind
    rows.modules.append((name, kind, parent, len(rows.tensors)))
    rows.ends.append(index + 1)
    own = [(tensor_name, tensor, _role(tensor_name, tensor)) for tensor_name, tensor in node.tensors]
    if len(own) > 1:
        own.sort(key=lambda row: (row[2], _FIRST_TENSORS.get(row[0], 0), _order(row[0])))
    rows.tensors += own
    if node.children:
        siblings = tuple(node.children)
        order = rows.orders.get(siblings)
        if order is None:
            order = rows.orders[siblings] = sorted(siblings, key=_order)
        for child in order:
            _fill(rows, node.children[child], child, index)
        rows.ends[index] = len(rows.modules)


def _role(name: str, tensor: NamedTensor) -> Role:
    return Role.BUFFER if name in _BUFFERS or tensor.dtype == "bool" else Role.PARAMETER


@cache
def _order(name: str) -> tuple[int, tuple[str | int, ...]]:
    """Return where a name stands among its siblings: by its use in a model, then by its numbers."""
    parts = tuple(int(part) if i % 2 else part for i, part in enumerate(_NUMBER.split(name)))
    return next((rank for rank, pattern in _ORDER if pattern.search(name)), 0), parts


def _tree(rows: _Rows, ties: Mapping[str, str]) -> ModuleTree:
    tensors = [tensor for _, tensor, _ in rows.tensors]
    owners = list(range(len(tensors)))
    if ties:
        number = {tensor.path: i for i, tensor in enumerate(tensors)}
        owners = [number[ties.get(tensor.path, tensor.path)] for tensor in tensors]
    storages = group_storages(owners)
    names, classes, parents, firsts = zip(*rows.modules, strict=True)
    return ModuleTree(
        names=names,
        classes=classes,
        parents=parents,
        ends=tuple(rows.ends),
        first_tensors=(*firsts, len(tensors)),
        tensor_names=tuple(name for name, _, _ in rows.tensors),
        shapes=tuple(tensor.shape for tensor in tensors),
        dtypes=tuple(tensor.dtype for tensor in tensors),
        roles=tuple(role for _, _, role in rows.tensors),
        storages=storages,
        nbytes=tuple(tensor.nbytes if storages[i] == i else 0 for i, tensor in enumerate(tensors)),
    )

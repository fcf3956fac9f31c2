"""Whether a plan is for the model at hand; where it is not, the differences in a few lines.

Equal digests agree. Unequal digests still agree if the tables differ only in what no placement
depends on: transient buffers, second names of tied tensors, and whether a tensor is a buffer, all of
which a checkpoint does not tell.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from ...ir import Diagnostic, ModuleTree, Plan, Role
from ...ir.rules.loading import ANOTHER_MODEL

_SHOWN: Final = 6
_Kind: TypeAlias = tuple[tuple[int, ...], str]


@dataclass(frozen=True, slots=True)
class _Table:
    """What counts of a tree: shape and dtype by path, and which paths are only other names."""

    kinds: dict[str, _Kind]
    optional: frozenset[str]
    ties: dict[str, str]

    @classmethod
    def of(cls, tree: ModuleTree) -> _Table:
        paths = tree.tensor_paths
        kinds = dict(zip(paths, zip(tree.shapes, tree.dtypes, strict=True), strict=True))
        ties = {paths[i]: paths[first] for i, first in enumerate(tree.storages) if first != i}
        transient = {path for path, role in zip(paths, tree.roles, strict=True) if role is Role.TRANSIENT}
        return cls(kinds, frozenset(transient | ties.keys()), ties)


def disagreement(plan: Plan, tree: ModuleTree) -> Diagnostic | None:
    """Return why the plan cannot be applied to a model with this tree; None when it can."""
    if plan.model.digest is None or plan.model.digest == tree.digest:
        return None
    if plan.tree is None:
        digests = (f"the plan is for {plan.model.digest}, the model is {tree.digest}",)
        help_ = "compile the plan again; with `--with-modules` it can say what differs"
        message = f"the plan is for another model than this one: `{plan.model.name}`"
        return Diagnostic(ANOTHER_MODEL, message, notes=digests, help=help_)
    notes = tuple(_differences(_Table.of(plan.tree), _Table.of(tree), plan.tree, tree))
    if not notes:
        return None
    message = f"the model is not the one the plan `{plan.model.name}` was compiled for"
    return Diagnostic(ANOTHER_MODEL, message, notes=notes, help="compile the plan again for this model")


def _differences(old: _Table, new: _Table, planned: ModuleTree, there: ModuleTree) -> Iterator[str]:
    removed = [path for path in old.kinds if path not in new.kinds and path not in old.optional]
    added = [path for path in new.kinds if path not in old.kinds and path not in new.optional]
    renamed = _renamed(removed, added, old, new)
    for (before, after), count in _most_first(Counter(map(_changed_part, renamed.items()))):
        yield f"renamed: `{before}` is now `{after}` ({_tensors(count)})"
    gone = [path for path in removed if path not in renamed]
    come = sorted(set(added) - set(renamed.values()), key=added.index)
    yield from _grouped("removed", gone, there)
    yield from _grouped("added", come, planned)
    both = [path for path in old.kinds if path in new.kinds]
    yield from _listed("reshaped", (
        f"`{path}` {list(old.kinds[path][0])} -> {list(new.kinds[path][0])}"
        for path in both if old.kinds[path][0] != new.kinds[path][0]
    ))  # fmt: skip
    retyped = Counter(
        (old.kinds[path][1], new.kinds[path][1])
        for path in both
        if old.kinds[path][1] != new.kinds[path][1] and path not in old.optional | new.optional
    )
    for (before, after), count in _most_first(retyped):
        yield f"retyped: {before} -> {after} ({_tensors(count)}); pass `dtype` to convert while loading"
    yield from _listed("no longer tied", _only_in(old.ties, new.ties, new.kinds))
    yield from _listed("newly tied", _only_in(new.ties, old.ties, old.kinds))


def _only_in(ties: dict[str, str], others: dict[str, str], known: dict[str, _Kind]) -> Iterator[str]:
    return (f"`{path}` to `{first}`" for path, first in ties.items() if path in known and path not in others)


def _renamed(removed: list[str], added: list[str], old: _Table, new: _Table) -> dict[str, str]:
    """Pair what is gone with what is new: the same tail of the name, shape and dtype."""
    pairs: dict[str, str] = {}
    by_tail: dict[str, list[str]] = {}
    for path in added:
        by_tail.setdefault(path.rpartition(".")[2], []).append(path)
    offset = _common_prefix_change(removed, set(added))
    for path in removed:
        if offset is not None:
            pairs[path] = offset[1] + path.removeprefix(offset[0])
            continue
        same = [c for c in by_tail.get(path.rpartition(".")[2], ()) if new.kinds[c] == old.kinds[path]]
        if len(same) == 1 and same[0] not in pairs.values():
            pairs[path] = same[0]
    return pairs


def _common_prefix_change(removed: list[str], added: set[str]) -> tuple[str, str] | None:
    """Return the prefixes before and after if one change of prefix explains all that is gone."""
    if not removed:
        return None
    first = removed[0].split(".")
    for keep in range(len(first), 0, -1):
        tail = ".".join(first[-keep:])
        before = removed[0][: len(removed[0]) - len(tail)]
        for candidate in added:
            if not (candidate == tail or candidate.endswith(f".{tail}")):
                continue
            after = candidate[: len(candidate) - len(tail)]
            moved = (after + path.removeprefix(before) for path in removed if path.startswith(before))
            if all(path.startswith(before) for path in removed) and added.issuperset(moved):
                return before, after
    return None


def _changed_part(pair: tuple[str, str]) -> tuple[str, str]:
    """Return the two names without the end they share."""
    before, after = (path.split(".") for path in pair)
    while len(before) > 1 and len(after) > 1 and before[-1] == after[-1]:
        before, after = before[:-1], after[:-1]
    if before[-1] == after[-1]:
        longer = before if len(before) > len(after) else after
        rest = ".".join(longer[:-1])
        return (f"{rest}.*", "*") if longer is before else ("*", f"{rest}.*")
    return ".".join(before), ".".join(after)


def _grouped(word: str, paths: list[str], other: ModuleTree) -> Iterator[str]:
    """List paths by the outermost module the other tree does not have."""
    groups: Counter[str] = Counter()
    for path in paths:
        parts = path.split(".")
        heads = (".".join(parts[:n]) for n in range(1, len(parts)))
        groups[next((head for head in heads if head not in other.module_index), path)] += 1
    texts = (f"`{head}` ({_tensors(count)})" if count > 1 else f"`{head}`" for head, count in groups.items())
    return _listed(word, texts)


def _listed(word: str, texts: Iterator[str]) -> Iterator[str]:
    found = list(texts)
    for text in found[:_SHOWN]:
        yield f"{word}: {text}"
    if len(found) > _SHOWN:
        yield f"{word}: {len(found) - _SHOWN} more"


def _most_first(counts: Counter[tuple[str, str]]) -> list[tuple[tuple[str, str], int]]:
    return counts.most_common(_SHOWN)


def _tensors(count: int) -> str:
    return "1 tensor" if count == 1 else f"{count} tensors"

"""Paths that name nothing in a model: one finding per line, or one for all when a prefix moved."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from itertools import groupby
from typing import Final, NamedTuple

from ...grammar.ranges import fold_paths
from ...grammar.words import spell_path
from ...ir import Diagnostic, Diagnostics, Label, ModuleTree, Span, join_path
from ...ir.changes import Fix, RenamePrefix, line_removed, word_exchanged
from ...ir.near import near_name
from ...ir.patterns import match_paths
from ...ir.rules.language import RENAMED_PREFIX, UNKNOWN_PATH
from ...ir.wording import in_words

_DEEPEST_PREFIX: Final = 3
_MOST_PREFIXES: Final = 5_000
_SHOWN: Final = 6
_WRITTEN: Final = "correct or remove the line"
_MADE: Final = "the plan has names of other files or another model: make it with `compile_model(model)`"
"""What helps where no line was written: the names are those a compile found."""


class Unknown(NamedTuple):
    """A path that names nothing, and where it was written."""

    path: str
    span: Span | None


class Rename(NamedTuple):
    """The exchange of one prefix for another; the root is ``""``."""

    old: str
    new: str

    def apply(self, path: str) -> str | None:
        """Return the path under its new prefix; None when it is not below the old one."""
        if not self.old:
            return join_path(self.new, path)
        if not path.startswith(f"{self.old}."):
            return None
        return join_path(self.new, path[len(self.old) + 1 :])


def report_unknown(tree: ModuleTree, unknown: Sequence[Unknown], diagnostics: Diagnostics) -> None:
    """Report paths that name nothing: a moved prefix once, the others line by line."""
    rename = find_rename(tree, [each.path for each in unknown])
    moved: list[Unknown] = []
    left: list[Unknown] = []
    for each in unknown:
        fixed = rename is not None and _exists(tree, rename.apply(each.path))
        (moved if fixed else left).append(each)
    if rename is not None and moved:
        diagnostics.add(_renamed(rename, moved))
    for _, group in groupby(left, lambda each: each.span and (id(each.span.source), each.span.start)):
        diagnostics.add(_unknown(tree, [*group]))


def find_rename(tree: ModuleTree, paths: Sequence[str]) -> Rename | None:
    """Return the shortest exchange of a prefix that makes most of these paths exist."""
    if not paths or (len(paths) == 1 and len(_everywhere(tree, paths[0])) > 1):
        return None
    sample = paths[:: max(1, len(paths) // 200)]
    for rename in sorted(_candidates(tree, paths), key=lambda each: len(each.old) + len(each.new)):
        fixed = sum(_exists(tree, rename.apply(path)) for path in sample)
        if fixed * 2 > len(sample):
            return rename
    return None


def _candidates(tree: ModuleTree, paths: Sequence[str]) -> Iterator[Rename]:
    names = paths[0].split(".")
    modules = [path for path in tree.paths if path.count(".") < _DEEPEST_PREFIX][:_MOST_PREFIXES]
    for depth in range(min(_DEEPEST_PREFIX, len(names) - 1) + 1):
        old = ".".join(names[:depth])
        for new in modules:
            rename = Rename(old, new)
            nested = not old or not new or old.endswith(f".{new}") or new.endswith(f".{old}")
            if new == old or not (nested or (len(paths) > 1 and not _looks_misspelled(rename))):
                continue
            if _exists(tree, rename.apply(paths[0])):
                yield rename


def _looks_misspelled(rename: Rename) -> bool:
    old, new = rename.old.split("."), rename.new.split(".")
    return len(old) == len(new) and all(
        a == b or near_name(a, [b]) is not None for a, b in zip(old, new, strict=True)
    )


def _exists(tree: ModuleTree, path: str | None) -> bool:
    if path is None or not path.strip("*."):  # stars alone match in every model
        return False
    return bool(match_paths(tree, path))


def _renamed(rename: Rename, moved: Sequence[Unknown]) -> Diagnostic:
    old = f"{rename.old}." if rename.old else ""
    new = f"{rename.new}." if rename.new else ""
    first = moved[0]
    fixed = rename.apply(first.path) or ""
    places = {(id(each.span.source), each.span.start): each.span for each in moved if each.span}
    labels = [Label(span, "and here") for span in places.values()][1:4]
    change = f"prefix `{old}` is `{new}` in this model" if old and new else (
        f"prefix `{new}` is missing" if new else f"prefix `{old}` is not in this model"
    )  # fmt: skip
    many = f"{len(moved)} paths name nothing" if len(moved) > 1 else f"`{first.path}` names nothing"
    return Diagnostic(
        RENAMED_PREFIX,
        f"{many}: {change}",
        Label(first.span, f"`{fixed}` in this model") if first.span else None,
        tuple(labels),
        help=_advice(old, new),
        about=first.path,
        fixes=(Fix((RenamePrefix(old, new),)),) if places else (),
    )


def _advice(old: str, new: str) -> str:
    if not old:
        return f"write `{new}` before each of these paths"
    return f"write `{new}` for `{old}`" if new else f"remove `{old}` from these paths"


def _unknown(tree: ModuleTree, group: Sequence[Unknown]) -> Diagnostic:
    span = group[0].span
    shown = in_words((spell_path(each.path) for each in fold_paths([u.path for u in group])), 3)
    meant = _class_meant(tree, group) or _meant(tree, [each.path for each in group])
    return Diagnostic(
        UNKNOWN_PATH,
        f"{shown} names nothing in this model",
        Label(span, "matches nothing") if span else None,
        notes=tuple(_what_is_there(tree, group[0].path)),
        help=f"did you mean `{meant}`?" if meant else _WRITTEN if span else _MADE,
        about=group[0].path,
        fixes=word_exchanged(span, group[0].path, meant) or line_removed(span),
    )


def _class_meant(tree: ModuleTree, group: Sequence[Unknown]) -> str | None:
    """Read the name of a class behind `atomic` as what it is."""
    (path, span), classes = group[0], dict.fromkeys(tree.classes)
    if span is None or not span.source.text.startswith("atomic ", span.start):
        return None
    name = path if path in classes else near_name(path, classes)
    return None if name is None else f"class {name}"


def _meant(tree: ModuleTree, paths: Sequence[str]) -> str | None:
    """Return the path or pattern that was probably meant by all of these; None when none is near."""
    if len(paths) == 1:
        one = _sliced(tree, paths[0]) or _listed(tree, paths[0]) or _below(tree, paths[0])
        if one is not None:
            return one
    corrected = [_dotted(tree, path) or _correct(tree, path) or _pattern(tree, path) for path in paths]
    known = [*dict.fromkeys(path for path in corrected if path is not None)]
    if len(known) < len(paths):
        return _range(tree, paths)
    folded = fold_paths(known)
    return spell_path(folded[0].path) if len(folded) == 1 else None


def _sliced(tree: ModuleTree, path: str) -> str | None:
    """Read Python's slices: ``h[0:4]`` are the first four, ``h[2:]`` all from the third on."""
    found = re.fullmatch(r"([^\[]+)\[(\d{0,9}):(\d{0,9})\](.*)", path)
    stack = None if found is None else tree.module_index.get(found[1])
    if found is None or stack is None:
        return None
    first, last = int(found[2] or 0), int(found[3] or len(tree.children(stack))) - 1
    ends = [f"{found[1]}.{number}{found[4]}" for number in (first, last)]
    if first > last or not all(match_paths(tree, end) for end in ends):
        return None
    return f"{found[1]}.{{{first}..{last}}}{found[4]}"


def _listed(tree: ModuleTree, path: str) -> str | None:
    """Read a list of paths, ``h.0,h.1``, as the braces that stand for it."""
    parts = path.split(",")
    known = len(parts) > 1 and all(_exists(tree, part) for part in parts)
    folded = fold_paths(parts) if known else ()
    return spell_path(folded[0].path) if len(folded) == 1 else None


def _below(tree: ModuleTree, path: str) -> str | None:
    """Read a name that is found only further down, ``mlp``, as a pattern for wherever it is."""
    return f"**.{path}" if _everywhere(tree, path) else None


def _everywhere(tree: ModuleTree, path: str) -> Collection[str]:
    """Return the paths that end in a single name."""
    return match_paths(tree, f"**.{path}") if path and not {".", "*"} & {*path} else ()


def _dotted(tree: ModuleTree, path: str) -> str | None:
    """Read what other notations write for dots: ``h/3``, ``h[3]``, ``h:3``."""
    dotted = re.sub(r"\[(\w+)\]|[/:](\w+)", r".\1\2", path)
    return dotted if dotted != path and match_paths(tree, dotted) else None


def _range(tree: ModuleTree, paths: Sequence[str]) -> str | None:
    """Return the range that was meant by ``h.0-3``, or by one that goes on beyond the end of its stack."""
    module, wrong, rest = _known_parent(tree, paths[0])
    names = [tree.names[child] for child in tree.children(module)]
    between = re.fullmatch(r"(\d+)-(\d+)", wrong)
    if rest or not names or not all(name.isdigit() for name in names):
        return None
    if between is None and not (len(paths) > 1 and wrong.isdigit()):
        return None
    first, last = (between[1], between[2]) if between else (names[0], names[-1])
    return join_path(tree.paths[module], f"{{{first}..{last}}}") if {first, last} <= {*names} else None


def _known_parent(tree: ModuleTree, path: str) -> tuple[int, str, str]:
    """Split a path at the first name that does not exist: parent module, that name, and the rest."""
    at = ""
    names = path.split(".")
    for count, name in enumerate(names):
        below = join_path(at, name)
        if below not in tree.module_index:
            return tree.module_index[at], name, ".".join(names[count + 1 :])
        at = below
    return tree.module_index[at], "", ""


def _names_below(tree: ModuleTree, module: int) -> list[str]:
    own = [tree.tensor_names[tensor] for tensor in tree.own_tensors(module)]
    return [tree.names[child] for child in tree.children(module)] + own


def _correct(tree: ModuleTree, path: str) -> str | None:
    """Correct one misspelled name after the other; None when one has no single near name."""
    for _ in range(path.count(".") + 1):
        module, wrong, rest = _known_parent(tree, path)
        near = near_name(wrong, _names_below(tree, module))
        if near is None:
            return None
        path = join_path(join_path(tree.paths[module], near), rest) if rest else join_path(
            tree.paths[module], near
        )  # fmt: skip
        if match_paths(tree, path):
            return path
    return None


def _pattern(tree: ModuleTree, path: str) -> str | None:
    """Correct the one misspelled name of a pattern, ``**.mpl``, by the names there are anywhere."""
    names, known = path.split("."), dict.fromkeys((*tree.names, *tree.tensor_names))
    for at, name in enumerate(names if "*" in path else ()):
        near = None if "*" in name or name in known else near_name(name, known)
        meant = near and ".".join((*names[:at], near, *names[at + 1 :]))
        if meant and match_paths(tree, meant):
            return meant
    return None


def _what_is_there(tree: ModuleTree, path: str) -> Iterator[str]:
    module, _, _ = _known_parent(tree, path)
    names = _names_below(tree, module)
    where = f"`{tree.paths[module]}`" if module else "the model"
    if names and all(name.isdigit() for name in names):
        yield f"{where} has {len(names)} members, `{names[0]}` to `{names[-1]}`"
    elif names:
        yield f"{where} has {in_words(names, _SHOWN)}"

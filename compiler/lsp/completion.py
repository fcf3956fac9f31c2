"""Which words may stand where the cursor is: the grammar says which kind, the model says which."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from ...grammar.parser import next_terminals
from ...grammar.statements import FORMS, INNER_WORDS, Kind
from ...grammar.words import path_of, spell_name, spell_path
from ...ir import CPU, DISK, ModuleTree, Plan, human_size, join_path
from ...ir.patterns import match_paths
from ...ir.purposes import PURPOSES
from .mentions import expanded, line_around, mentions
from .shapes import Completion, Edit
from .subject import read_subject

_UNFINISHED: Final = re.compile(r'[^\s"#=]*\Z')
_MOST: Final = 500


def complete(text: str, offset: int, companion: Plan | None = None) -> tuple[Completion, ...]:
    """Return what may be written at an offset, in place of the unfinished word there."""
    start, _ = line_around(text, offset)
    row = text[start:offset]
    unfinished = _UNFINISHED.search(row)
    if unfinished is None or _in_quotes_or_comment(row):
        return ()
    before, word = row[: unfinished.start()], unfinished[0]
    at = start + unfinished.start()
    base = read_subject(text, companion=companion).base
    found = _candidates(text, before, word, base)
    return tuple(
        Completion(Edit(at, offset, written), kind, detail)
        for written, kind, detail in dict.fromkeys(found)
        if word.lower() in written.lower()
    )[:_MOST]


def _in_quotes_or_comment(row: str) -> bool:
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', "", row)
    return '"' in bare or "#" in bare


def _candidates(text: str, before: str, word: str, base: Plan | None) -> Iterator[tuple[str, str, str]]:
    """Yield words with their kind and a detail."""
    if not before.strip():
        yield from ((name, "keyword", form.split("`")[0]) for name, form in FORMS.items())
        return
    allowed = next_terminals(before)
    inner = sorted(name.lower() for name in allowed if name.lower() in INNER_WORDS)
    tree = None if base is None else base.tree
    previous = before.rsplit(maxsplit=1)[-1]
    if "DEVICE_NAME" in allowed:
        yield from ((name, "device", detail) for name, detail in _devices(text, base).items())
    if "PATH" in allowed and tree is not None:
        yield from _paths(tree, word)
    if previous in {"class", ":"} and tree is not None:
        yield from ((spell_name(name), "class", _counted(count)) for name, count in _classes(tree).items())
    if previous == "for":
        yield from ((f'"{each.name}"', "purpose", "has a line in the ledger") for each in PURPOSES)
    yield from ((name, "keyword", "") for name in inner)


def _devices(text: str, base: Plan | None) -> dict[str, str]:
    """Return the devices there are, those of the model's plan first, with their budgets."""
    found: dict[str, str] = {}
    for device in () if base is None else base.devices:
        found[device.name] = "no limit" if device.memory is None else human_size(device.memory)
    for each in mentions(text):
        if each.kind is Kind.DEVICE:
            found.setdefault(each.name, "named in this text")
    return found or dict.fromkeys(("cuda:0", CPU, DISK), "")


def _classes(tree: ModuleTree) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in tree.classes:
        counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def _counted(count: int) -> str:
    return f"{count} module{'' if count == 1 else 's'}"


def _paths(tree: ModuleTree, word: str) -> Iterator[tuple[str, str, str]]:
    """Yield the names below the module written so far; below a pattern, those of its first match."""
    parent = word.rpartition(".")[0]
    found = match_paths(tree, expanded(parent)[0]) if parent else [""]
    module = tree.module_index.get(found[0]) if found else None
    if module is None:
        return
    children = tree.children(module)
    names = [tree.names[child] for child in children]
    if len(names) > 1 and all(name.isdigit() for name in names):
        stack = f"{{{names[0]}..{names[-1]}}}"
        yield join_path(parent, stack), "module", f"all {len(names)}"
    for child, name in zip(children, names, strict=True):
        yield _spelled(parent, name), "module", _module_detail(tree, child)
    for tensor in tree.own_tensors(module):
        shape = ", ".join(map(str, tree.shapes[tensor]))
        yield _spelled(parent, tree.tensor_names[tensor]), "tensor", f"{tree.dtypes[tensor]}[{shape}]"


def _spelled(parent: str, name: str) -> str:
    path = join_path(parent, name)
    return path if "{" in parent else spell_path(path_of(path))


def _module_detail(tree: ModuleTree, module: int) -> str:
    size = "" if tree.nbytes is None else f" {human_size(tree.subtree_bytes(module))}"
    return f"{tree.classes[module]}{size}"

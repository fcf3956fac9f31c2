"""What is known about the word under the cursor: sizes, places and their reasons, ledgers, forms."""

from __future__ import annotations

from collections.abc import Iterator

from ...grammar.statements import FORMS, Kind
from ...ir import Account, Plan, PlanError, human_size
from ...ir.patterns import match_paths, outermost
from ...ir.purposes import LEDGER_LINES
from ...ir.wording import in_words
from ..answers.explain import explain
from .mentions import Mention, expanded, line_around, mention_at
from .shapes import Hover
from .subject import read_subject

_SHOWN = 8


def hover(text: str, offset: int, companion: Plan | None = None) -> Hover | None:
    """Return what is known about the word at an offset; None when nothing is."""
    found = mention_at(text, offset)
    if found is None:
        return _keyword(text, offset)
    subject = read_subject(text, companion=companion)
    base = subject.base
    match found.kind:
        case Kind.DEVICE:
            rows = _device(found.name, base if base is not None and base.devices else subject.plan)
        case Kind.CLASS:
            rows = _class(found.name, base)
        case Kind.PATH:
            rows = _path(found, base)
        case _:
            return _keyword(text, offset)
    shown = "\n\n".join(rows)
    return Hover(found.start, found.end, shown) if shown else None


def _keyword(text: str, offset: int) -> Hover | None:
    start, end = line_around(text, offset)
    row = text[start:end]
    indent = len(row) - len(row.lstrip())
    word = row.split()[0] if row.strip() else ""
    if word not in FORMS or not start + indent <= offset <= start + indent + len(word):
        return None
    return Hover(start + indent, start + indent + len(word), f"`{FORMS[word]}`")


def _device(name: str, plan: Plan) -> Iterator[str]:
    device = next((each for each in plan.devices if each.name == name), None)
    if device is None:
        return
    limit = "no limit" if device.memory is None else human_size(device.memory)
    yield f"**{name}** memory {limit}"
    account = next((each for each in plan.ledger if each.device == name), None)
    if account is not None:
        free = "" if device.memory is None else f", {human_size(device.memory - account.total)} free"
        yield f"{human_size(account.total)} taken{free}"
        yield _ledger(account)


def _ledger(account: Account) -> str:
    rows = ((part.replace("_", " "), getattr(account, part)) for part in LEDGER_LINES)
    return "\n".join(f"- {label} {human_size(nbytes)}" for label, nbytes in rows if nbytes)


def _class(name: str, base: Plan | None) -> Iterator[str]:
    tree = None if base is None else base.tree
    modules = [] if tree is None else [i for i, each in enumerate(tree.classes) if each == name]
    if tree is None or not modules:
        return
    yield f"**{name}** {len(modules)} modules, the first is `{tree.paths[modules[0]] or '.'}`"
    if tree.nbytes is not None:
        sizes = [tree.subtree_bytes(module) for module in modules]
        same = len(set(sizes)) == 1
        each = human_size(sizes[0]) if same else f"{human_size(min(sizes))} to {human_size(max(sizes))}"
        yield f"{each} each"


def _path(found: Mention, base: Plan | None) -> Iterator[str]:
    tree = None if base is None else base.tree
    if base is None or tree is None:
        return
    patterns = [found.name] if found.literal else expanded(found.name)
    paths = outermost([path for pattern in patterns for path in match_paths(tree, pattern)])
    if len(paths) == 1:
        yield from _one(paths[0], base)
    elif paths:
        size = ""
        if tree.nbytes is not None:
            prefix = tree.prefix_bytes
            spans = map(tree.covered, paths)
            size = f", {human_size(sum(prefix[span.stop] - prefix[span.start] for span in spans))} together"
        yield f"{len(paths)} members{size}"
        yield in_words(paths, _SHOWN)


def _one(path: str, base: Plan) -> Iterator[str]:
    try:
        facts = explain(base, path).facts if base.units else _unplaced(path, base)
    except PlanError:
        facts = _unplaced(path, base)
    yield f"**{path or '.'}**"
    yield "\n".join(f"- {label}: {text}" for label, text in facts)


def _unplaced(path: str, base: Plan) -> tuple[tuple[str, str], ...]:
    """Say what a path is where the plan has no place for it."""
    tree = base.tree
    if tree is None:
        return ()
    module = tree.module_index.get(path)
    inside = tree.covered(path)
    size = ""
    if tree.nbytes is not None:
        size = f", {human_size(tree.prefix_bytes[inside.stop] - tree.prefix_bytes[inside.start])}"
    if module is not None:
        return (("is", f"{tree.classes[module]}{size}"),)
    shape = ",".join(map(str, tree.shapes[inside.start]))
    return (("is", f"{tree.dtypes[inside.start]}[{shape}]{size}"),)

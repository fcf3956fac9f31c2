"""What the classes of the installed transformers say of their own checkpoints, read from their source.

Importing 450 modules would take a minute; their source is parsed in seconds, and says the same.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_ROOT = "PreTrainedModel"
_FACTS = {
    "base_model_prefix": "prefix",
    "_tied_weights_keys": "ties",
    "_keep_in_fp32_modules": "float32",
    "_keep_in_fp32_modules_strict": "always_float32",
    "_keys_to_ignore_on_load_unexpected": "unexpected",
}
"""Attribute of a class, and its name in the file."""
_UNDER_PREFIX = "."
"""The name of a part that a class sets by the name in its `base_model_prefix`."""


def package() -> Path:
    """Return the folder of the installed transformers."""
    spec = importlib.util.find_spec("transformers")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


class SourceClass:
    """A class as its source says it."""

    def __init__(self, node: ast.ClassDef) -> None:
        self.bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
        self.facts: dict[str, Any] = {}
        self.decided_later = any(
            isinstance(target, ast.Attribute) and target.attr == "_tied_weights_keys"
            for inner in ast.walk(node)
            if isinstance(inner, ast.Assign)
            for target in inner.targets
        )
        self.parts = dict(sorted(_parts(node), key=lambda part: bool(part[1])))
        """What sets a part to something given is not what makes it."""
        for line in node.body:
            name, value = _assigned(line)
            if name in _FACTS and value is not None:
                self._note(name, value)

    def _note(self, name: str, value: ast.expr) -> None:
        try:
            found = ast.literal_eval(value)
        except ValueError:  # computed from another class: only building it tells
            self.decided_later = True
            return
        self.facts[_FACTS[name]] = sorted(found) if isinstance(found, set | list | tuple) else found


def _parts(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """Yield the attributes a class gives itself, with the class it calls for them."""
    for line in ast.walk(node):
        match line:
            case ast.Assign(targets=[ast.Attribute(value=ast.Name(id="self"), attr=name)], value=value):
                yield name, _called(value)
            case ast.Call(func=ast.Name("setattr"), args=[_, ast.Attribute(attr="base_model_prefix"), value]):
                yield _UNDER_PREFIX, _called(value)


def _called(value: ast.expr) -> str:
    """Return the class that is called for a value, also through a method of it; empty for other values."""
    match value:
        case ast.Call(func=ast.Attribute(value=ast.Name(id="nn"), attr="Buffer")):
            return "nn.Buffer"
        case ast.Call(func=ast.Name(id=name)) | ast.Call(func=ast.Attribute(value=ast.Name(id=name))):
            return name
        case ast.IfExp(body=body):
            return _called(body)
        case _:
            return ""


def _assigned(line: ast.stmt) -> tuple[str, ast.expr | None]:
    match line:
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            return name, value
        case ast.AnnAssign(target=ast.Name(id=name), value=value):
            return name, value
    return "", None


def classes_by_file(package: Path) -> Iterator[tuple[str, dict[str, SourceClass]]]:
    """Yield the name of each modelling file and its classes."""
    for path in sorted((package / "models").glob("*/modeling_*.py")):
        yield path.stem, _in_file(path)


def _in_file(path: Path) -> dict[str, SourceClass]:
    body = ast.parse(path.read_text()).body
    return {node.name: SourceClass(node) for node in body if isinstance(node, ast.ClassDef)}


def facts() -> dict[str, dict[str, Any]]:
    """Return what each class says, inherited values included and silent ones left out."""
    files = dict(classes_by_file(package()))
    everywhere = {name: found for classes in files.values() for name, found in classes.items()}
    everywhere |= _in_file(package() / "modeling_layers.py")
    result: dict[str, dict[str, Any]] = {}
    for classes in files.values():
        later = any(one.decided_later for one in classes.values())
        for name in classes:
            line = list(_line(name, classes, everywhere))
            if line[-1] != _ROOT or name.endswith(_ROOT):
                continue
            known = [classes.get(one) or everywhere[one] for one in line[:-1]]
            said = {
                key: value
                for one in reversed(known)
                for key, value in one.facts.items()
                if value or key == "ties"
            }
            decided = later or any(one.decided_later for one in known)
            body = f"{name.partition('For')[0]}Model"
            parts = [_with_body(one.parts, said.get("prefix"), body, classes) for one in known]
            if decided or _is_built_to_order(said, parts, everywhere):
                said["decided_later"] = True
            inner = [each[said["prefix"]] for each in parts if said.get("prefix") in each]
            if inner:
                said["inner"] = inner[0] or "?"
                said["beside"] = sorted(_beside(said, parts))
            result[name] = {key: said[key] for key in sorted(said) if said[key]}
    return dict(sorted(result.items()))


def _with_body(
    parts: dict[str, str], prefix: str | None, body: str, near: dict[str, SourceClass]
) -> dict[str, str]:
    """Return parts with the model of a shared head by its name: it is the type's own, below the prefix."""
    if prefix is None or _UNDER_PREFIX not in parts:
        return parts
    maker = body if body in near else parts[_UNDER_PREFIX]
    return {prefix: maker, **{name: each for name, each in parts.items() if name != _UNDER_PREFIX}}


def _beside(said: dict[str, Any], parts: list[dict[str, str]]) -> set[str]:
    """Return the parts of a class beside the model inside it, but for those its ties tell of."""
    made = {name for each in parts for name, maker in each.items() if maker}
    tied = {path.partition(".")[0] for pair in (said.get("ties") or {}).items() for path in pair}
    return made - tied - {said["prefix"]}


def _is_built_to_order(
    said: dict[str, Any], parts: list[dict[str, str]], everywhere: dict[str, SourceClass]
) -> bool:
    """Say whether a configuration chooses the class of a part, or what is ignored in files fits a part.

    Of the latter only what is left over is ignored, which takes the names of the model.
    """
    made = {name: maker for each in parts for name, maker in each.items()}
    dropped = any(
        re.search(pattern, f"{part}.weight")
        for pattern in said.get("unexpected", ())
        for part in _parts_below(parts, everywhere)
    )
    return dropped or any(re.match("Auto(Model|Backbone)", maker) for maker in made.values())


def _parts_below(parts: list[dict[str, str]], everywhere: dict[str, SourceClass]) -> set[str]:
    """Return the names of everything that is made in a class, however deep."""
    names, seen, waiting = set[str](), set[str](), list(parts)
    while waiting:
        made = {name: maker for name, maker in waiting.pop().items() if maker[:1].isupper() or maker == "nn"}
        names |= made.keys()  # buffers are left out of files, others computed of what is given
        fresh = set(made.values()) - seen
        seen |= fresh
        waiting += [everywhere[maker].parts for maker in fresh if maker in everywhere]
    return names


def _line(name: str, near: dict[str, SourceClass], far: dict[str, SourceClass]) -> Iterator[str]:
    """Yield a class and what it inherits from, to the root: mixins, then the first base that leads there."""
    yield name
    found = near.get(name) or far.get(name)
    for base in found.bases if found else ():
        line = list(_line(base, near, far)) if base != _ROOT else [_ROOT]
        yield from (one for one in line if one == _ROOT or one in near or one in far)
        if line[-1] == _ROOT:
            return


def tying() -> list[str]:
    """Return the model types whose words are tied where a configuration is silent."""
    found: set[str] = set()
    for path in sorted((package() / "models").glob("*/configuration_*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                said = {name: value for name, value in map(_assigned, node.body) if value is not None}
                tied, kind = said.get("tie_word_embeddings"), said.get("model_type")
                if isinstance(tied, ast.Constant) and tied.value is True and isinstance(kind, ast.Constant):
                    found.add(str(kind.value))
    return sorted(found)

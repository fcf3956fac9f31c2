"""Write compiler/sources/known_classes.json: what transformers' classes say of their own checkpoints.

``python benchmarks/known_classes.py``: class attributes are read from the source of the installed
transformers, not by importing 450 modules; the renaming rules from its conversion table.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from typing import Any

from compile_plan.compiler.sources.config_numbers import QUERY_HEADS, first_told, text_config

sys.path.append(str(Path(__file__).parent))

WRITTEN = Path(__file__).parent.parent / "compiler" / "sources" / "known_classes.json"
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
ASKING = ("logits_to_keep", "num_logits_to_keep")
"""Arguments of a forward by which generation asks for the scores of the last position alone."""
_MASKING = ("doge", "falcon", "inkling_text")
_LENGTHS = (480, 3072)
WIDTHS = (2, 4)
"""Bytes of a number in the dtypes that scores are measured in."""
_FEWEST, _ANY_SCORE = 0.5, 16.0
_SIMPLE = ("MergeModulelist", "Concatenate")
"""Operations whose result follows from the shapes alone."""


def _package() -> Path:
    spec = importlib.util.find_spec("transformers")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


class _Class:
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


def _classes(package: Path) -> Iterator[tuple[str, dict[str, _Class]]]:
    """Yield the name of each modelling file and its classes."""
    for path in sorted((package / "models").glob("*/modeling_*.py")):
        yield path.stem, _in_file(path)


def _in_file(path: Path) -> dict[str, _Class]:
    body = ast.parse(path.read_text()).body
    return {node.name: _Class(node) for node in body if isinstance(node, ast.ClassDef)}


def facts() -> dict[str, dict[str, Any]]:
    """Return what each class says, inherited values included and silent ones left out."""
    files = dict(_classes(_package()))
    everywhere = {name: found for classes in files.values() for name, found in classes.items()}
    everywhere |= _in_file(_package() / "modeling_layers.py")
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
    parts: dict[str, str], prefix: str | None, body: str, near: dict[str, _Class]
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
    said: dict[str, Any], parts: list[dict[str, str]], everywhere: dict[str, _Class]
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


def _parts_below(parts: list[dict[str, str]], everywhere: dict[str, _Class]) -> set[str]:
    """Return the names of everything that is made in a class, however deep."""
    names, seen, waiting = set[str](), set[str](), list(parts)
    while waiting:
        made = {name: maker for name, maker in waiting.pop().items() if maker[:1].isupper() or maker == "nn"}
        names |= made.keys()  # buffers are left out of files, others computed of what is given
        fresh = set(made.values()) - seen
        seen |= fresh
        waiting += [everywhere[maker].parts for maker in fresh if maker in everywhere]
    return names


def _line(name: str, near: dict[str, _Class], far: dict[str, _Class]) -> Iterator[str]:
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
    for path in sorted((_package() / "models").glob("*/configuration_*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                said = {name: value for name, value in map(_assigned, node.body) if value is not None}
                tied, kind = said.get("tie_word_embeddings"), said.get("model_type")
                if isinstance(tied, ast.Constant) and tied.value is True and isinstance(kind, ast.Constant):
                    found.add(str(kind.value))
    return sorted(found)


def scores() -> dict[str, list[float]]:
    """Return the bytes of a score, by `WIDTHS`, of types whose attention keeps those of all pairs.

    These are types whose class with a language head has no fused kernel, and those that are known to make a
    mask for every head. Traced at lengths so different that what grows with the square can be told apart.
    What is in float32 whatever a model computes in takes as much in both.
    """
    import transformers

    kinds = ((kind, getattr(transformers, name, None)) for kind, name in headed().items())
    unfused = (kind for kind, made in kinds if made is not None and not made._supports_sdpa)  # noqa: SLF001
    return {kind: _score(kind) for kind in sorted({*unfused, *_MASKING})}


def _score(kind: str) -> list[float]:
    """Return the bytes of a score by width; what any takes where no trace tells, or blocks attend alone."""
    found = [
        max((each for length in _LENGTHS if (each := _square(kind, length, width))), default=0.0)
        for width in WIDTHS
    ]
    told = [round(each, 2) for each in found]
    return told if min(told) > _FEWEST else [_ANY_SCORE * width / WIDTHS[0] for width in WIDTHS]


def _square(kind: str, length: int, width: int) -> float | None:
    """Return what grows with the square of a text's length, by head; None where such a text is not read."""
    import torch
    from compile_plan.ir.purposes import ACTIVATIONS
    from needs_of_configs import Diagnostics, Use, built, demands, small_config, try_moments

    def peak(tokens: int) -> int:
        use = Use(total=tokens + 16, written=16)
        moments = try_moments(model, None, Diagnostics(), seq=tokens, use=use)
        return max(each.nbytes for each in demands(moments) if each.purpose == ACTIVATIONS)

    try:
        config = small_config(kind)
        if hasattr(config, "attention_type"):
            config.attention_type = "original_full"  # what blocks keep does not grow with the square
        model, _, content = built(config, torch.float32 if width > WIDTHS[0] else torch.bfloat16)
        heads = first_told(text_config(content), QUERY_HEADS)
        return None if heads is None else (peak(2 * length) - 2 * peak(length)) / (2 * length**2 * heads)
    except Exception:  # noqa: BLE001  # models of others may raise anything
        return None


def scoring_all() -> list[str]:
    """Return the classes with a language head that cannot be asked for the scores of some positions alone."""
    import transformers

    made = {name: getattr(transformers, name, None) for name in headed().values()}
    asked = {name: {*signature(each.forward).parameters} for name, each in made.items() if each is not None}
    return sorted(name for name, named in asked.items() if named.isdisjoint(ASKING))


def headed() -> dict[str, str]:
    """Return the class with a language head of each model type, for configurations without a class."""
    from transformers.models.auto import modeling_auto

    causal = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    both = {**modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES, **causal}
    return {kind: name for kind, name in sorted(both.items()) if isinstance(name, str)}


def rules() -> dict[str, list[dict[str, Any]] | None]:
    """Return the rules of every class and model type; None where only torch can follow them."""
    from transformers import conversion_mapping

    found = conversion_mapping._build_checkpoint_conversion_mapping()  # noqa: SLF001
    files = dict(_classes(_package()))
    return {
        name: None if _is_ambiguous(rules, _parts_near(name, files)) else _written(rules)
        for name, rules in sorted(found.items())
    }


def _parts_near(name: str, files: dict[str, dict[str, _Class]]) -> set[str]:
    """Return the attributes of all classes beside a class, or in the file of a model type."""
    stems = [stem.removeprefix("modeling_") for stem in files]
    kind = max((stem for stem in stems if name.startswith(stem)), key=len, default="")
    near = [classes for stem, classes in files.items() if name in classes or stem == f"modeling_{kind}"]
    return {part for classes in near for one in classes.values() for part in one.parts}


def _is_ambiguous(rules: list[Any], parts: set[str]) -> bool:
    """Say whether a rule for old names also fits one that today's classes give.

    transformers looks then whether the model has the new name or the old one, which no table knows.
    """
    return any(
        not pattern.startswith("^") and re.search(pattern, f"model.layers.0.{part}.weight")
        for rule in rules
        for pattern in rule.source_patterns
        for part in parts
        if not getattr(rule, "operations", ())
    )


def _written(rules: list[Any]) -> list[dict[str, Any]] | None:
    lines: list[dict[str, Any]] = []
    for rule in rules:
        operations = [type(operation).__name__ for operation in getattr(rule, "operations", ())]
        plain = type(rule).__name__ in {"WeightRenaming", "PrefixChange", "WeightConverter"}
        if not plain or any(operation not in _SIMPLE for operation in operations):
            return None
        if operations and len(rule.target_patterns) > 1:
            return None
        line: dict[str, Any] = {"from": rule.compiled_sources.pattern, "to": rule.target_patterns[0]}
        if operations:
            line["steps"] = [
                ["stack" if type(one).__name__ == "MergeModulelist" else "concatenate", one.dim]
                for one in rule.operations
            ]
            line["sources"] = rule.source_patterns
        lines.append(line)
    return lines


def table() -> dict[str, Any]:
    """Return the whole content of the file."""
    import transformers

    content = {"transformers": transformers.__version__, "tying": tying(), "headed": headed()}
    return {
        **content, "scores": scores(), "scoring_all": scoring_all(), "classes": facts(), "rules": rules(),
    }  # fmt: skip


def written(content: dict[str, Any]) -> str:
    """Return the content as text: one line a class, so that differences can be read."""
    parts = [f'{{"transformers": {json.dumps(content["transformers"])},']
    parts += [f'"{key}": {json.dumps(content[key])},' for key in ("tying", "scores", "scoring_all")]
    for key in ("headed", "classes", "rules"):
        lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in content[key].items())
        parts.append(f'"{key}": {{\n{lines}\n}}' + ("}" if key == "rules" else ","))
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    WRITTEN.write_text(written(table()))

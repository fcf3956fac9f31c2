"""Write compiler/sources/known_classes.json: what transformers' classes say of their own checkpoints.

``python benchmarks/known_classes.py``: class attributes are read from the source of the installed
transformers, not by importing 450 modules; the renaming rules from its conversion table.
"""

from __future__ import annotations

import json
import re
import sys
from inspect import signature
from pathlib import Path
from typing import Any

from compile_plan.compiler.sources.config_numbers import QUERY_HEADS, first_told, text_config

sys.path.append(str(Path(__file__).parent))
from class_sources import SourceClass, classes_by_file, facts, package, tying

WRITTEN = Path(__file__).parent.parent / "compiler" / "sources" / "known_classes.json"
ASKING = ("logits_to_keep", "num_logits_to_keep")
"""Arguments of a forward by which generation asks for the scores of the last position alone."""
_MASKING = ("doge", "falcon", "inkling_text")
_LENGTHS = (480, 3072)
WIDTHS = (2, 4)
"""Bytes of a number in the dtypes that scores are measured in."""
_FEWEST, _ANY_SCORE = 0.5, 16.0
_SIMPLE = ("MergeModulelist", "Concatenate")
"""Operations whose result follows from the shapes alone."""


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
    files = dict(classes_by_file(package()))
    return {
        name: None if _is_ambiguous(rules, _parts_near(name, files)) else _written(rules)
        for name, rules in sorted(found.items())
    }


def _parts_near(name: str, files: dict[str, dict[str, SourceClass]]) -> set[str]:
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

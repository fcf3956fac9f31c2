"""What transformers' classes say of their checkpoints, from a table: neither library is opened.

``known_classes.json`` is written by ``benchmarks/known_classes.py`` from an installed transformers, and a
test compares the two. A class that is not in it has names that nobody translates.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from .config_numbers import PACKING, type_named

_TABLE: Final = Path(__file__).with_name("known_classes.json")
_OLD_SPELLINGS: Final = (".weight_g", ".weight_v")
"""What weight norm called its tensors before torch 2."""
_HALF, _SINGLE = 2, 4
"""Widths that scores are measured in."""
_NO_CONFIGS: Final = frozenset({*PACKING, "rope_parameters", "rope_scaling"})


@dataclass(frozen=True, slots=True)
class NameRule:
    """How a stored name becomes one of the model's; with steps, how several tensors become one."""

    pattern: re.Pattern[str]
    becomes: str
    steps: tuple[tuple[str, int], ...]
    """``stack`` or ``concatenate`` along a dimension."""
    sources: int
    """How many kinds of tensors are put together."""
    below: str
    """Applies to names below this prefix, or without it; empty for all."""

    def applied(self, name: str) -> tuple[str, int | None]:
        """Return the new name, and which source the old one is; None where the rule does not apply."""
        kept = f"{self.below}." if self.below and name.startswith(f"{self.below}.") else ""
        inner = name.removeprefix(kept)
        match = self.pattern.search(inner)
        if match is None:
            return name, None
        source = next(group for group, text in match.groupdict().items() if text is not None)
        new = self.becomes
        if r"\1" in new:
            new = new.replace(r"\1", match.group(self.pattern.groupindex[source] + 1))
        return kept + inner.replace(match.group(0), new, 1), int(source[1:])


@dataclass(frozen=True, slots=True)
class KnownClass:
    """One class of the table; patterns are regular expressions searched for in names."""

    name: str
    prefix: str
    has_inner: bool
    """Whether the class holds the model proper under `prefix`."""
    beside: tuple[str, ...]
    """The first parts of the names of what it holds beside it; those of `ties` tell of more."""
    ties: Mapping[str, str]
    """Path of a tensor, and of the one it is tied to if the configuration ties words."""
    ties_by_default: bool
    float32: tuple[str, ...]
    """What float16 models keep in float32."""
    always_float32: tuple[str, ...]
    """What bfloat16 models keep in float32 too."""
    unexpected: tuple[str, ...]
    """Stored names the class expects and has no use for."""
    rules: tuple[NameRule, ...]


def architecture(config: Mapping[str, object]) -> str | None:
    """Return the class a configuration names."""
    match config.get("architectures"):
        case [str(name), *_] if name.isidentifier():
            return name
        case _:
            return None


def score_nbytes(config: Mapping[str, object], text: Mapping[str, object], width: int) -> float:
    """Return the bytes of a score that an attention keeps for each pair, by the width of numbers; 0 for none.

    ``text`` is the part that writes: where nothing is known of its type, that of the whole tells. Types whose
    attention is fused keep none.
    """
    kind = type_named(text)
    kept: Mapping[str, Sequence[float]] = _table()["scores"]
    half, single = kept.get(kind if kind in _table()["headed"] else type_named(config), (0, 0))
    return half if width <= _HALF else single * width / _SINGLE


def is_fused(config: Mapping[str, object], text: Mapping[str, object]) -> bool | None:
    """Say whether the attention of what writes has a fused kernel; None where that is not known."""
    kind = type_named(text) if type_named(text) in _table()["headed"] else type_named(config)
    return kind not in _table()["scores"] if kind in _table()["headed"] else None


def is_compared(config: Mapping[str, object]) -> bool:
    """Say whether the table has the class of a configuration, or one that writes of its type."""
    return architecture(config) in _table()["classes"] or type_named(config) in _table()["headed"]


def scores_all(config: Mapping[str, object]) -> bool:
    """Say whether the class of a configuration makes the scores of all positions, whatever is asked for."""
    return architecture(config) in _table()["scoring_all"]


def with_class(config: Mapping[str, object], names: Collection[str]) -> Mapping[str, object]:
    """Return a configuration that names its class: the one with a head, if none is said and there is one."""
    name = _table()["headed"].get(type_named(config))
    if name is None or config.get("architectures"):
        return config
    said = _table()["classes"].get(name, {})
    heads = {target for target in said.get("ties", {}) if target in names}
    below = any(path.startswith(f"{said.get('prefix')}.") for path in names)
    return {**config, "architectures": [name]} if heads or below else config


def is_known(config: Mapping[str, object]) -> bool:
    """Say whether transformers has the class of a configuration, and no code beside it is meant."""
    return "auto_map" not in config and architecture(config) in _table()["classes"]


def known_class(config: Mapping[str, object], names: Iterable[str] = ()) -> KnownClass | None:
    """Return what is known of the class of a configuration; None where only building it tells.

    That is so where parts of the model are chosen by configurations inside this one, where the class
    decides in its constructor what it ties, where weights are permuted or cut on loading, and where one
    of the stored names has an older spelling that some classes still have.
    """
    if any(name.endswith(_OLD_SPELLINGS) for name in names):
        return None
    name = architecture(config)
    said = _table()["classes"].get(name)
    if name is None or said is None or said.get("decided_later") or _is_composite(config):
        return None
    kind = str(config.get("model_type"))
    rules = _rules(name, kind, said)
    ties = _ties(said)
    if rules is None or not all(map(_is_tensor_path, (*ties, *ties.values()))):
        return None
    return KnownClass(
        name,
        said.get("prefix", ""),
        "inner" in said,
        tuple(said.get("beside", ())),
        ties,
        kind in _table()["tying"],
        tuple(said.get("float32", ())),
        tuple(said.get("always_float32", ())),
        tuple(said.get("unexpected", ())),
        rules,
    )


def _ties(said: Mapping[str, Any]) -> dict[str, str]:
    """Return what a class ties, and below its prefix what the model inside it does."""
    inner = _table()["classes"].get(said.get("inner"))
    below = {} if inner is None else _ties(inner)
    prefix = said.get("prefix", "")
    return {**{f"{prefix}.{a}": f"{prefix}.{b}" for a, b in below.items()}, **said.get("ties", {})}


def _rules(name: str, kind: str, said: Mapping[str, Any]) -> tuple[NameRule, ...] | None:
    """Return the rules of a class and of the model inside it, in transformers' order of looking them up."""
    known: Mapping[str, list[dict[str, Any]] | None] = _table()["rules"]
    inner = said.get("inner")
    outer = name if name in known else kind if kind in known else None
    below = inner if inner in known else kind if outer == name and kind in known and inner else None
    own = known[outer] if outer is not None else []
    nested = known[below] if below is not None else []
    if own is None or nested is None:
        return None
    always = [line for line in known["legacy"] or () if "LayerNorm" in line["to"]]
    below_prefix = [_rule(line, said.get("prefix", "")) for line in nested]
    return (*(_rule(line, "") for line in own), *below_prefix, *(_rule(line, "") for line in always))


def _rule(line: Mapping[str, Any], below: str) -> NameRule:
    steps = tuple((str(word), int(dim)) for word, dim in line.get("steps", ()))
    return NameRule(re.compile(line["from"]), line["to"], steps, len(line.get("sources", ())), below)


def _is_composite(config: Mapping[str, object]) -> bool:
    """Say whether parts of the model have configurations of their own."""
    inner = (key for key, value in config.items() if isinstance(value, dict) and key not in _NO_CONFIGS)
    return any(key.endswith(("_config", "encoder", "decoder")) for key in inner)


def _is_tensor_path(path: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9_.]+\.(?:weight|bias)", path) is not None


@cache
def _table() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(_TABLE.read_bytes())
    return content

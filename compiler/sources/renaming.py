"""What stored names are by transformers' rules: one name of an expert stands for those of all.

The names of a mixture are mostly such that differ in one number, which is gone when experts are stacked. What
two made-up numbers become, all of as many digits become, if no rule can tell one digit from another there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from .name_rules import Rule, rules_of_model

if TYPE_CHECKING:
    from torch import nn

_NUMBERED: Final = re.compile(r"(.*\.)(\d+)(\..*)", re.ASCII | re.DOTALL)
_AFTER_LETTERS: Final = re.compile(r"(?<!\\)[A-Za-z_]\d+", re.ASCII)
"""Digits of a pattern that no number between two dots can meet."""
_FEWEST: Final = 4
"""Names in a row that are worth two more questions."""


class Renaming:
    """The rules for one model."""

    def __init__(self, rules: Sequence[Rule], prefix: str | None = None, known: Iterable[str] = ()) -> None:
        """Take the rules, what a model's names may begin with, and its names."""
        from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

        renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
        converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
        names = dict.fromkeys(known, True)
        self.converters = {pattern: rule for rule in converters for pattern in rule.source_patterns}
        self._blind = all(map(_is_blind, rules))
        self.one: Callable[[str], tuple[str, str | None]] = lambda name: rename_source_key(
            name, renamings, converters, prefix, names
        )
        """From a stored name to the model's, and the pattern of the rule that merges it with others."""

    def of(self, names: Iterable[str]) -> Iterator[tuple[list[str], str, str | None]]:
        """Yield names in natural order, such as become the same together, with what they become."""
        if not self._blind:
            yield from (([name], *self.one(name)) for name in sorted(names, key=natural))
            return
        rows: dict[tuple[str, str], list[str]] = {}
        for name in names:
            found = _NUMBERED.fullmatch(name)
            before, number, after = (name, "", "") if found is None else found.groups()
            rows.setdefault((before, after), []).append(number)
        for before, after in sorted(rows, key=lambda row: natural("".join(row))):
            row = self._row(before, sorted(rows[before, after], key=_value), after)
            for (target, pattern), same in groupby(row, itemgetter(1, 2)):
                yield [name for each, _, _ in same for name in each], target, pattern

    def _row(
        self, before: str, numbers: Iterable[str], after: str
    ) -> Iterator[tuple[list[str], str, str | None]]:
        for digits, same in groupby(numbers, len):
            names = [f"{before}{number}{after}" for number in same]
            if len(names) >= _FEWEST:
                one, other = (self.one(f"{before}{digit * digits}{after}") for digit in "12")
                if one == other:
                    yield names, *one
                    continue
            yield from (([name], *self.one(name)) for name in names)


def renaming_of(model: nn.Module, known: Iterable[str]) -> Renaming | None:
    """Return how a model's class renames stored names; None where it is no class of transformers."""
    if not any(base.__module__.startswith("transformers.") for base in type(model).__mro__):
        return None
    try:
        rules = rules_of_model(model)
    except ImportError:  # releases before 5 save what they load
        return None
    return Renaming(rules, getattr(model, "base_model_prefix", "") or None, known)


def _is_blind(rule: Rule) -> bool:
    """Say whether a rule looks at a name alone, and sees no difference between digits between dots."""
    from transformers.core_model_loading import WeightTransform

    own = getattr(type(rule), "rename_source_key", None)
    plain = own is not None and own is getattr(WeightTransform, "rename_source_key", None)
    return plain and all(map(_tells_no_digits, rule.source_patterns))


def _tells_no_digits(pattern: str) -> bool:
    left = pattern if "[" in pattern else _AFTER_LETTERS.sub("", pattern)
    return "(?P=" not in pattern and not any(sign in "0123456789" for sign in left)


def natural(name: str) -> list[tuple[int, int, str]]:
    """Sort ``experts.10`` after ``experts.9``."""
    return [_part(part) for part in name.split(".")]


def _value(number: str) -> int:
    return int(number or 0)


@lru_cache(4096)
def _part(part: str) -> tuple[int, int, str]:
    return (0, int(part), "") if part.isdecimal() else (1, 0, part)

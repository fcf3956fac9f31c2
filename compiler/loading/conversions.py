"""Checkpoints in the layout of an older class: transformers' own rules turn them into today's.

A transformers class may say how the names of its published checkpoints map to its parameters, and
which of them are merged (one tensor per expert into one for all). Renamed tensors are read in place;
merged ones are read, merged by transformers' operations and copied to where they belong.
"""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import nn

from ..sources.name_rules import Rule
from ..sources.renaming import natural, renaming_of
from ..sources.safetensors_header import StoredTensor


@dataclass(frozen=True, slots=True)
class Merge:
    """Stored tensors that become tensors of the model together."""

    target: str
    converter: Rule
    sources: list[tuple[str, StoredTensor]] = field(default_factory=list[tuple[str, StoredTensor]])
    """The rule's pattern and the stored tensor, those of a pattern in natural order of their names."""

    def run(self, values: list[torch.Tensor], model: nn.Module | None) -> dict[str, torch.Tensor]:
        """Return the model's tensors by path; ``values`` are those of ``sources``, taken from the list.

        The converter alone holds them then, and lets go of them as it goes.
        """
        converter = copy.deepcopy(self.converter)
        for pattern, source in self.sources:
            converter.add_tensor(self.target, source.path, pattern, values.pop(0))
        made = converter.convert(self.target, model=model, config=getattr(model, "config", None))
        return {path: value[0] if isinstance(value, list) else value for path, value in made.items()}

    def kinds(self) -> list[list[StoredTensor]] | None:
        """Return the stored tensors by kind, in the order they are joined; None for other rules.

        That is for rules that only stack (along the first dimension) and join (along the next).
        """
        steps = [(type(step).__name__, getattr(step, "dim", None)) for step in self.converter.operations]
        patterns: list[str] = list(self.converter.source_patterns)
        stacked = steps == [("MergeModulelist", 0)] and len(patterns) == 1
        joined = steps == [("MergeModulelist", 0), ("Concatenate", 1)]
        if not (stacked or joined) or len(self.converter.target_patterns) != 1:
            return None
        found = [[source for pattern, source in self.sources if pattern == kind] for kind in patterns]
        return [kind for kind in found if kind]

    def shapes(self, model: nn.Module) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Return what `run` will make: what pieces tell, else found out on the meta device."""
        stack = self.stacked()
        if stack is not None:
            return {self.target: stack}
        values = [
            torch.empty(source.shape, dtype=getattr(torch, source.dtype), device="meta")
            for _, source in self.sources
        ]
        return {path: (tuple(value.shape), value.dtype) for path, value in self.run(values, model).items()}

    def stacked(self) -> tuple[tuple[int, ...], torch.dtype] | None:
        """Return shape and dtype of a stack of pieces, joined along the first dimension of a piece.

        None where merging does more. Finding that out by stacking takes longer than reading: a mixture has
        some ten thousand pieces.
        """
        kinds = self.kinds()
        if kinds is None or not all(len({(one.shape, one.dtype) for one in kind}) == 1 for kind in kinds):
            return None
        if (
            len({(len(kind), kind[0].shape[1:], kind[0].dtype) for kind in kinds}) != 1
            or not kinds[0][0].shape
        ):
            return None
        first = kinds[0][0]
        shape = (len(kinds[0]), sum(kind[0].shape[0] for kind in kinds), *first.shape[1:])
        return shape, getattr(torch, first.dtype)


@dataclass(frozen=True, slots=True)
class Converted:
    """A checkpoint by the names of the model: what is only renamed, and what is merged."""

    stored: dict[str, StoredTensor]
    merges: tuple[Merge, ...] = ()


def converted(
    model: nn.Module, stored: Mapping[str, StoredTensor], known: Mapping[str, tuple[int, ...]]
) -> Converted:
    """Apply the conversions of the model's class to the stored names, as transformers does.

    ``known`` are the shapes of the model's own tensors by name. A name the rules lead nowhere stays as it
    is. A model of no transformers class converts nothing.
    """
    renaming = renaming_of(model, known)
    if renaming is None:
        return Converted({respelled(name, known): tensor for name, tensor in stored.items()})
    result: dict[str, StoredTensor] = {}
    merges: dict[str, Merge] = {}
    parts: Counter[tuple[str, str]] = Counter()
    for names, target, pattern in renaming.of(stored):
        if target not in known:
            result |= {name: stored[name] for name in names}
        elif pattern is None:
            result[target] = stored[names[-1]]
        else:
            merge = merges.setdefault(target, Merge(target, renaming.converters[pattern]))
            merge.sources.extend((pattern, stored[name]) for name in names)
            parts[target, pattern] += 1
    for target in {target for (target, _), count in parts.items() if count > 1}:
        merges[target].sources.sort(key=lambda source: natural(source[1].path))
    for merge in [merge for merge in merges.values() if _is_there_already(merge, model, known)]:
        result[merge.target] = merges.pop(merge.target).sources[0][1]
    return Converted(result, tuple(merges.values()))


_SPELLINGS: Final = (
    (re.compile(r"(.*?)(?:parametrizations\.)?(\w+)\.original0"), "_g"),
    (re.compile(r"(.*?)(?:parametrizations\.)?(\w+)\.original1"), "_v"),
)
"""How torch's newer weight norm calls what the older one calls ``weight_g`` and ``weight_v``."""


def respelled(name: str, known: Collection[str]) -> str:
    """Return a stored name as the model spells it, if it has it in the other spelling of weight norm."""
    if name in known:
        return name
    for number, (newer, end) in enumerate(_SPELLINGS):
        if found := newer.fullmatch(name):
            other = f"{found[1]}{found[2]}{end}"
        elif name.endswith(end):
            above, _, own = name.removesuffix(end).rpartition(".")
            other = f"{above}{'.' if above else ''}parametrizations.{own}.original{number}"
        else:
            continue
        return other if other in known else name
    return name


def _is_there_already(merge: Merge, model: nn.Module, known: Mapping[str, tuple[int, ...]]) -> bool:
    """Say whether a stored tensor has the model's name and shape, and converting it would spoil the shape."""
    names = [source.path for _, source in merge.sources]
    if names != [merge.target] or merge.sources[0][1].shape != known[merge.target]:
        return False
    return merge.shapes(model)[merge.target][0] != known[merge.target]

"""Which stored tensor fills which tensor of the model; everything that does not fit is named at once.

A tensor is filled from the checkpoint under any of its names. One prefix that all names of the
checkpoint lack or have in excess (``transformer.``) is seen through. Nothing has been read yet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Final

import torch
from torch import nn

from ...ir import Diagnostic, Diagnostics, Role
from ...ir.rules.loading import (
    IGNORED_TENSOR,
    KEPT_TENSOR,
    NEW_TENSOR,
    TENSOR_NOT_IN_CHECKPOINT,
    TENSOR_NOT_IN_MODEL,
    WRONG_DTYPE,
    WRONG_SHAPE,
)
from ...ir.wording import in_words, listed
from ..sources.checkpoint_index import CheckpointIndex
from ..sources.safetensors_header import StoredTensor
from .asked import is_plain_float
from .conversions import Merge, converted
from .forgiven import is_expected, is_left_over, makes_anew
from .seats import Seat, Slot

_SHOWN: Final = 8
_DEEPEST: Final = 3
"""Modules around the part of a checkpoint that a model may be."""
_FEWEST: Final = 20
"""The share of a checkpoint's names that such a part has at least: one in so many."""


@dataclass(frozen=True, slots=True)
class Match:
    """What fills each slot: ``stored`` from the checkpoint, ``kept`` from the live model, ``absent``."""

    stored: dict[str, StoredTensor]
    """By first path of the slot."""
    absent: tuple[Slot, ...]
    """Slots that are in no checkpoint and have no value on the model: to be made again."""
    makers: Mapping[str, Merge] = field(default_factory=dict[str, Merge])
    """What must be converted before it is one of the model's tensors, by all paths that come out."""
    merged: frozenset[str] = frozenset()
    """First paths of the slots that merges fill."""
    again: tuple[tuple[StoredTensor, StoredTensor], ...] = ()
    """What fills a tied tensor, with what is stored under another of its names."""
    fresh: frozenset[str] = frozenset()
    """First paths of absent slots that the model's own initialisation fills, perhaps with random numbers."""

    def maker(self, slot: Slot) -> tuple[str, Merge] | None:
        """Return what makes a slot's tensor, and by which path it comes out; None where it is stored."""
        return next(((path, self.makers[path]) for path in slot.paths if path in self.makers), None)

    def of(self, seats: Sequence[Seat]) -> Match:
        """Return what fills some of the seats."""
        first = {slot.paths[0] for seat in seats for slot in seat.slots}
        known = {path for seat in seats for slot in seat.slots for path in slot.paths}
        stored = {path: source for path, source in self.stored.items() if path in first}
        filling = {id(source) for source in stored.values()}
        return Match(
            stored,
            tuple(slot for slot in self.absent if slot.paths[0] in first),
            {path: merge for path, merge in self.makers.items() if path in known},
            self.merged & first,
            tuple(pair for pair in self.again if id(pair[0]) in filling),
            self.fresh & first,
        )


def match_seats(
    seats: Sequence[Seat],
    index: CheckpointIndex | None,
    model: nn.Module,
    diagnostics: Diagnostics,
    *,
    strict: bool,
) -> Match:
    """Match every slot with its source.

    Args:
        seats: where the tensors of the model go.
        index: the checkpoint; None when the model's own values are moved.
        model: the model without wrappers; its class may know other names and what to ignore.
        diagnostics: receives what is missing, left over or unfit.
        strict: whether missing and left-over tensors are errors.

    """
    slots = [slot for seat in seats for slot in seat.slots]
    if index is None:
        return Match({}, tuple(slot for slot in slots if slot.tensor.is_meta))
    known = {path: tuple(slot.tensor.shape) for slot in slots for path in slot.paths}
    class_names = converted(model, index.tensors, known)
    stored, part = _named_as_model(known, class_names.stored)
    made = [(merge, merge.shapes(model)) for merge in class_names.merges]
    outputs = {path: kind for _, shapes in made for path, kind in shapes.items()}
    makers = {path: merge for merge, shapes in made for path in shapes}
    found: dict[str, StoredTensor] = {}
    missing: list[Slot] = []
    for seat in seats:
        members = {slot.paths[0]: _source(slot, stored) for slot in seat.slots}
        filled = {path: source for path, source in members.items() if source is not None}
        found |= filled
        if any(slot.paths[0] in filled and slot.nbytes == seat.nbytes for slot in seat.slots):
            continue  # a tensor as large as the storage fills every view of it
        missing += [slot for slot in seat.slots if members[slot.paths[0]] is None]
    merged = frozenset(slot.paths[0] for slot in missing if not outputs.keys().isdisjoint(slot.paths))
    missing = [slot for slot in missing if slot.paths[0] not in merged]
    needed = [slot for slot in missing if slot.role is not Role.TRANSIENT]
    new = makes_anew(model, needed, (path for slot in slots if slot.paths[0] in found for path in slot.paths))
    needed = [slot for slot in needed if slot not in new]
    _report_new(new, diagnostics)
    left = _left_over(stored, found, known, model)
    ended = is_left_over(model, [tensor.path for tensor in left], index.tensors, part, complete=not needed)
    _report_left([f"`{t.path}`" for t in left if t.path in ended], diagnostics, strict=False)
    left = [tensor for tensor in left if tensor.path not in ended]
    _report_missing(needed, index, diagnostics, strict=strict)
    _report_left(
        [f"`{tensor.path}` in `{index.file_of(tensor).name}`" for tensor in left], diagnostics, strict=strict
    )
    kinds = {
        path: (source.shape, stored_dtype(source), f" in `{index.file_of(source).name}`")
        for path, source in found.items()
    }
    kinds |= {slot.paths[0]: (*outputs[path], "") for slot in slots for path in slot.paths if path in outputs}
    _report_unfit(slots, kinds, diagnostics)
    absent = tuple(slot for slot in missing if slot.tensor.is_meta)
    again = tuple(_stored_again(slots, stored, found))
    fresh = frozenset(slot.paths[0] for slot in new)
    return Match(found, absent, makers, merged, again, fresh)


def _stored_again(
    slots: Sequence[Slot], stored: Mapping[str, StoredTensor], found: Mapping[str, StoredTensor]
) -> Iterator[tuple[StoredTensor, StoredTensor]]:
    for slot in slots:
        first = found.get(slot.paths[0])
        if first is not None:
            others = (stored[path] for path in slot.paths if path in stored)
            yield from ((first, other) for other in others if other.path != first.path)


def _left_over(
    stored: Mapping[str, StoredTensor],
    found: Mapping[str, StoredTensor],
    known: Collection[str],
    model: nn.Module,
) -> list[StoredTensor]:
    """Return the stored tensors that fill nothing and that the model's class does not expect to be left."""
    used = {source.path for source in found.values()}
    return [
        tensor
        for path, tensor in stored.items()
        if tensor.path not in used and path not in known and not is_expected(model, tensor.path)
    ]


def _source(slot: Slot, stored: dict[str, StoredTensor]) -> StoredTensor | None:
    """Return the stored tensor of a slot; a transient buffer keeps what the constructor made."""
    if slot.role is Role.TRANSIENT:
        return None
    return next((stored[path] for path in slot.paths if path in stored), None)


def _named_as_model(
    known: Collection[str], stored: Mapping[str, StoredTensor]
) -> tuple[dict[str, StoredTensor], str]:
    """Return the stored tensors by the model's names, seeing through one prefix, and what was taken off."""
    names = list(stored)
    best, hits = ("", ""), _hits(names, known)
    for change in _changes(names, known) if hits < min(len(known), (len(names) + 1) // 2) else ():
        count = _hits([_renamed(name, change) for name in names], known)
        if count > hits:
            best, hits = change, count
    return {_renamed(name, best, known): tensor for name, tensor in stored.items()}, best[0]


def _changes(names: Sequence[str], known: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield what names may begin with in the checkpoint, and with what instead in the model.

    A model may be the part of a larger one that lies deeper in it: ``model.language_model.layers``.
    """
    for head in sorted({f"{path.partition('.')[0]}." for path in (*known, *names)}):
        yield "", head
        yield head, ""
    begins = Counter(
        f"{'.'.join(parts[:depth])}."
        for parts in (name.split(".") for name in names)
        for depth in range(2, min(len(parts), _DEEPEST + 1))
    )
    tops = sorted({f"{path.partition('.')[0]}." for path in known})
    for begin in sorted(each for each, count in begins.items() if _FEWEST * count >= len(names)):
        yield begin, ""
        yield from ((begin, top) for top in tops)


def _hits(names: Iterable[str], known: Collection[str]) -> int:
    return sum(name in known for name in names)


def _renamed(name: str, change: tuple[str, str], known: Collection[str] = ()) -> str:
    before, after = change
    if change == ("", "") or name in known or not name.startswith(before):
        return name
    return after + name.removeprefix(before)


def _report_missing(
    missing: Sequence[Slot], index: CheckpointIndex, diagnostics: Diagnostics, *, strict: bool
) -> None:
    if not missing:
        return
    shown = in_words([slot.paths[0] for slot in missing], _SHOWN)
    folders = {file.path.parent for file in index.files}
    where = index.files[0].path if len(index.files) == 1 else next(iter(folders))
    unfilled = [slot for slot in missing if slot.tensor.is_meta]
    if strict:
        message = f"`{where}` lacks {len(missing)} tensors of the model: {shown}"
        help_ = "check that the checkpoint is for this class; `load_model(…, strict=False)` keeps new tensors"
        diagnostics.add(Diagnostic(TENSOR_NOT_IN_CHECKPOINT, message, help=help_))
    elif len(unfilled) < len(missing):
        kept = in_words([slot.paths[0] for slot in missing if not slot.tensor.is_meta], _SHOWN)
        message = f"`{where}` lacks {len(missing) - len(unfilled)} tensors whose values are kept: {kept}"
        diagnostics.add(Diagnostic(KEPT_TENSOR, message))


def _report_new(new: Sequence[Slot], diagnostics: Diagnostics) -> None:
    if new:
        shown = in_words([slot.paths[0] for slot in new], _SHOWN)
        message = f"the checkpoint lacks {len(new)} tensors that transformers makes anew: {shown}"
        diagnostics.add(Diagnostic(NEW_TENSOR, message))


def _report_left(left: Sequence[str], diagnostics: Diagnostics, *, strict: bool) -> None:
    if not left:
        return
    message = f"the checkpoint has {len(left)} tensors the model does not have: {listed(left, _SHOWN)}"
    if strict:
        help_ = "build the class the checkpoint is for, or skip them: `load_model(…, strict=False)`"
        diagnostics.add(Diagnostic(TENSOR_NOT_IN_MODEL, message, help=help_))
    else:
        diagnostics.add(Diagnostic(IGNORED_TENSOR, message))


def _report_unfit(
    slots: Sequence[Slot],
    found: Mapping[str, tuple[tuple[int, ...], torch.dtype | None, str]],
    diagnostics: Diagnostics,
) -> None:
    shapes: list[str] = []
    dtypes: list[str] = []
    for slot in slots:
        if slot.paths[0] not in found:
            continue
        stored, kind, where = found[slot.paths[0]]
        shape = tuple(slot.tensor.shape)
        if stored != shape:
            shapes.append(f"`{slot.paths[0]}` is {list(shape)}, stored is {list(stored)}{where}")
        elif not _converts(kind, slot.dtype):
            dtypes.append(f"`{slot.paths[0]}` is {_name(slot.dtype)}, stored is {_name(kind)}{where}")
    if shapes:
        help_ = "build the model from the configuration beside the checkpoint"
        message = f"{len(shapes)} tensors in the checkpoint have another shape than the model's"
        diagnostics.add(Diagnostic(WRONG_SHAPE, message, notes=_cut(shapes), help=help_))
    if dtypes:
        help_ = "build the model with the quantisation the checkpoint was made with"
        message = f"{len(dtypes)} tensors in the checkpoint are of another kind than the model's"
        diagnostics.add(Diagnostic(WRONG_DTYPE, message, notes=_cut(dtypes), help=help_))


def stored_dtype(source: StoredTensor) -> torch.dtype | None:
    """Return torch's dtype of a stored tensor; None for those this torch does not have."""
    return _dtype(source.dtype)


@cache
def _dtype(name: str) -> torch.dtype | None:
    found = getattr(torch, name, None)
    return found if isinstance(found, torch.dtype) else None


def _converts(stored: torch.dtype | None, wanted: torch.dtype) -> bool:
    if stored is None or stored == wanted:
        return stored is not None
    return is_plain_float(stored) and is_plain_float(wanted)


def _name(dtype: torch.dtype | None) -> str:
    return "a dtype this torch does not have" if dtype is None else str(dtype).removeprefix("torch.")


def _cut(lines: list[str]) -> tuple[str, ...]:
    more = [f"{len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return tuple(lines[:_SHOWN] + more)

"""What transformers forgives in a checkpoint: tensors it lacks and can be made, and those nobody needs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from ...ir import Role
from ..sources.model_names import behind_the_last, is_draft
from .seats import Slot

if TYPE_CHECKING:
    from torch import nn

_MADE_AGAIN: Final = {
    "rotary_emb.inv_freq": re.compile(r"rotary_emb\.inv_freq"),
    "position_ids": re.compile(r"(^|\.)position_ids$"),
}
"""What older releases stored, by the end of the name of a buffer that constructors make today."""

_POOLER: Final = "pooler."


def makes_anew(model: nn.Module, missing: Sequence[Slot], filled: Iterable[str]) -> tuple[Slot, ...]:
    """Return the missing tensors that transformers would initialise: listed ones, buffers, heads and poolers.

    ``filled`` are the paths the checkpoint fills. A head counts as new if the model under it is filled, and
    so does a pooler all of which is missing: models are trained without it, and saved so.
    """
    if not _is_transformers(model):
        return ()
    patterns = tuple(getattr(model, "_keys_to_ignore_on_load_missing", None) or ())
    inner = getattr(model, "base_model_prefix", "")
    prefix = f"{inner}." if inner and getattr(model, inner, None) is not None else ""
    body = [path.removeprefix(prefix) for path in filled if path.startswith(prefix)]
    pooled = prefix + _POOLER
    may_pool = not any(path.startswith(_POOLER) for path in body)
    added = {
        slot
        for slot in missing
        if slot.role is Role.PARAMETER
        and (not slot.paths[0].startswith(prefix) or (may_pool and slot.paths[0].startswith(pooled)))
    }
    body_lacks = any(slot.role is Role.PARAMETER and slot not in added for slot in missing)
    return tuple(
        slot
        for slot in missing
        if slot.role is not Role.PARAMETER
        or any(_matches(path, patterns) for path in slot.paths)
        or (slot in added and body and not body_lacks)
    )


def is_expected(model: nn.Module, name: str) -> bool:
    """Say whether a stored tensor that fills nothing is one the model's class has no use for."""
    patterns = tuple(getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ())
    return _matches(name, patterns)


def is_left_over(
    model: nn.Module, names: Sequence[str], stored: Iterable[str], part: str, *, complete: bool
) -> set[str]:
    """Return those of the names that other engines put in: buffers made anew, draft layers.

    A model without a head has no use for the head of the checkpoint it is in, and one that is the ``part``
    whose names begin so has none for the rest. One that is ``complete`` has none for modules it is without.
    """
    if not _is_transformers(model):
        return set()
    buffers = [name for name, _ in model.named_buffers()]
    made = [p for end, p in _MADE_AGAIN.items() if any(name.endswith(end) for name in buffers)]
    config: Any = model.config
    layers = getattr(config, "num_hidden_layers", None)
    said = {"num_hidden_layers": layers}
    drafts = {name for name in names if is_draft(name, said)} | behind_the_last(stored, said).intersection(
        names
    )
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    bare = getattr(model, prefix[:-1], None) is None and any(name.startswith(prefix) for name in stored)
    heads = {name for name in names if bare and not name.startswith(prefix)}
    if complete:
        heads |= {name for name in names if part and not name.startswith(part)}
        modules = {path for path, _ in model.named_modules()}
        heads |= {name for name in names if name.rpartition(".")[0] not in modules}
    return drafts | heads | {name for name in names if any(pattern.search(name) for pattern in made)}


def _is_transformers(model: nn.Module) -> bool:
    return any(base.__module__.startswith("transformers.") for base in type(model).__mro__)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)

"""Several batches through a model one after another, so that every host of a plan is at work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from .execution import Execution
from .hosts import With


def call_batches(model: nn.Module, batches: Iterable[object]) -> list[Any]:
    """Return what a model returns for each batch, as if it were called for one after another.

    Over several hosts the first goes on to the next batch while later ones compute: with as many batches as
    hosts and more, all are busy but at the ends. No gradients; a model on one host is just called.

    Args:
        model: loaded by a plan.
        batches: arguments of one call each: a mapping of keywords, a tuple, or one tensor. Every host gives
            the same; rows of one request or of many.

    """
    execution = next((found for found in map(Execution.of, model.modules()) if found is not None), None)
    rows = list(batches)

    def call(batch: object) -> Any:  # noqa: ANN401  # what the model returns
        if isinstance(batch, Mapping):
            return model(**batch)
        return model(*batch) if isinstance(batch, tuple) else model(batch)

    with torch.no_grad():
        for one in () if execution is None else execution.elsewhere:
            if isinstance(one, With):
                return one.ends.in_turn(call, rows)
        return [call(batch) for batch in rows]

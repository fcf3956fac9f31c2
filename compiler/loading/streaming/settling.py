"""Tensors that are put to rest, as a forward left them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .streamed import Streamed
    from .supply import Supply


def settle(streamed: Sequence[Streamed], supply: Supply) -> None:
    """Put tensors to rest, as the forward left them.

    A write to one tensor of a module counts for all in that table: batch norm marks its counter as
    written and its statistics not.
    """
    written = {table for one in streamed for table in one.written()}
    with torch.inference_mode(mode=False), torch.no_grad():
        replaced = [(one, one.replaced()) for one in streamed if one.used is not None]
        for one in streamed:
            one.settle(written)
    for one, others in replaced:
        if others or not one.homes:
            _exchange(one, others, supply)


def _exchange(one: Streamed, others: Sequence[Streamed], supply: Supply) -> None:
    """Let sites bring what a forward registered instead."""
    kept = [one, *others] if one.homes else others
    for number, site in enumerate(supply.sites):
        if any(other is one for other in site.streamed):
            site.streamed = [*(other for other in site.streamed if other is not one), *kept]
            supply.note(number)

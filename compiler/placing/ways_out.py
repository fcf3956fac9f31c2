"""What a person can do about a spill, worked out of the plan: another dtype, more cards, fewer bits.

Every way is enough when it is taken, but for quantised checkpoints, whose size is an estimate and said to be.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ...ir import ModuleTree, Plan, Spill, human_size, is_accelerator, size_up
from ...ir.dtypes import is_converted, stored_eighths

_HALF: Final = 16
_BITS: Final = ((8, 8.5), (4, 4.75))
"""Bits of a quantised weight, and what it takes with its scales in the usual formats."""
_MOST_CARDS: Final = 15
_LITTLE: Final = 0.25
"""The share of a card that a larger budget, a smaller cache or a shorter prompt may still free."""


def ways_out(plan: Plan, spill: Spill) -> tuple[str, ...]:
    """Return what would avoid a spill, the easiest first."""
    cards, bytes_more = tuple(_more_cards(plan, spill)), tuple(_more_bytes(spill))
    memory = next((d.memory for d in plan.devices if spill.more and d.name == spill.more[0]), None)
    little = spill.more is not None and spill.more[1] <= (memory or 0) * _LITTLE
    room = (*bytes_more, *cards) if little else (*cards, *bytes_more)
    return (*_smaller_dtype(plan, spill), *room, *_quantised(plan, spill))


def _more_bytes(spill: Spill) -> Iterator[str]:
    if spill.more is not None:
        yield f"+{size_up(spill.more[1])} on {spill.more[0]} and nothing spills"


def _smaller_dtype(plan: Plan, spill: Spill) -> Iterator[str]:
    tree = plan.tree
    if tree is None or tree.nbytes is None or any(name == "dtype" for name, _ in plan.options):
        return
    smaller = sum(_in_half(tree))
    saved = sum(tree.nbytes) - smaller
    if saved and _fits(plan, spill, spill.needed - saved):
        yield f"`--dtype bfloat16` makes the weights {human_size(smaller)}, and nothing spills"


def _in_half(tree: ModuleTree) -> Iterator[int]:
    """Yield the bytes of each tensor where wide floats take two bytes."""
    for nbytes, dtype in zip(tree.nbytes or (), tree.dtypes, strict=True):
        eighths = stored_eighths(dtype) or 0
        wide = is_converted(dtype) and eighths > _HALF
        yield nbytes * _HALF // eighths if wide else nbytes


def _fits(plan: Plan, spill: Spill, needed: int) -> bool:
    """Say whether so many bytes fit, one unit of the largest kind left over on every card."""
    cards = sum(is_accelerator(device.name) for device in plan.devices)
    return needed + cards * (spill.largest + spill.peak) <= spill.free


def _more_cards(plan: Plan, spill: Spill) -> Iterator[str]:
    """Yield how many more cards of the kind that lacks bytes hold them, a unit left over on each."""
    card = next((each for each in plan.devices if spill.more and each.name == spill.more[0]), None)
    if card is None or not card.memory or spill.more is None:
        return
    kept = card.margin + sum(each.nbytes for each in plan.reserves if each.device == card.name)
    room = card.memory - kept - spill.peak - spill.largest
    count = -(-spill.more[1] // room) if room > 0 else 0
    if 0 < count <= _MOST_CARDS:
        cards = "one more card" if count == 1 else f"{count} more cards"
        yield f"{cards} like {card.name} ({human_size(card.memory)}) and nothing spills"


def _quantised(plan: Plan, spill: Spill) -> Iterator[str]:
    tree = plan.tree
    if tree is None or tree.nbytes is None:
        return
    floats = [
        (nbytes, eighths)
        for nbytes, dtype in zip(tree.nbytes, tree.dtypes, strict=True)
        if is_converted(dtype) and (eighths := stored_eighths(dtype) or 0) >= _HALF
    ]
    rest = spill.needed - sum(nbytes for nbytes, _ in floats)
    for bits, taken in _BITS:
        total = rest + int(sum(nbytes * taken / eighths for nbytes, eighths in floats))
        if floats and _fits(plan, spill, total):
            yield f"a checkpoint of {bits} bits a weight takes about {human_size(total)}, and would fit"
            return

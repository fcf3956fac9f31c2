"""Which memory of the host the drivers of cards know: what moves most often first, and what came of it."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...ir import Diagnostic, human_size
from ...ir.rules.loading import NOT_PINNED
from .blocks import Block

if TYPE_CHECKING:
    import torch

    from .streaming.site import Site
    from .streaming.streamed import Streamed


@dataclass(frozen=True, slots=True)
class TierReport:
    """Where what is streamed to one device rests on this host, in bytes."""

    device: str
    """Where it runs."""
    pinned: int
    """In memory the driver of a card knows: blocks at their own size."""
    pageable: int
    """In other memory of the process."""
    files: int
    """In pages of the checkpoint's files, which the system may drop and read again."""


class Pinning:
    """Registers blocks one after another in a thread, those that move most often first.

    It ends by itself, at the latest where a driver refuses one.
    """

    def __init__(self, blocks: Sequence[Block], card: torch.device) -> None:
        """Begin with the first; ``card`` is one that blocks are sent to."""
        self._blocks, self._card, self._over = tuple(blocks), card, False
        self._thread = threading.Thread(target=self._work, name="compile-plan-register", daemon=True)
        if blocks:
            self._thread.start()

    def _work(self) -> None:
        for block in self._blocks:
            if self._over or not block.register(self._card):
                return  # the system allows no more: what is left stays pageable

    def end(self) -> None:
        """Return when the thread has ended; blocks keep what they are."""
        self._over = True
        if self._thread.is_alive():
            self._thread.join()

    @property
    def ended(self) -> bool:
        """Whether no more blocks will be registered."""
        return not self._thread.is_alive()


def pinned_first(sites: Sequence[Site], seldom: Collection[int]) -> list[Block]:
    """Return the blocks of sites in the order they are registered: those that every pass moves whole first.

    Of the sites ``seldom`` a pass moves some rows.
    """
    order = sorted(range(len(sites)), key=lambda number: number in set(seldom))
    blocks = [leaf.block for number in order for leaf in leaves_of_site(sites[number])]
    return list({id(block): block for block in blocks if block is not None}.values())


def leaves_of_site(site: Site) -> Iterable[Streamed]:
    """Yield the plain tensors that a site brings."""
    return (leaf for one in site.streamed for leaf in one.leaves)


def tiers_of(sites: Sequence[Site]) -> tuple[TierReport, ...]:
    """Return where streamed tensors rest now, by the device they run on."""
    leaves = list({id(leaf): leaf for site in sites for leaf in leaves_of_site(site)}.values())
    devices = dict.fromkeys(str(leaf.device) for leaf in leaves)
    return tuple(_tier(name, [leaf for leaf in leaves if str(leaf.device) == name]) for name in devices)


def _tier(device: str, leaves: Sequence[Streamed]) -> TierReport:
    blocks = {id(leaf.block): leaf.block for leaf in leaves if leaf.block is not None and leaf.block.pinned}
    others = [leaf for leaf in leaves if id(leaf.block) not in blocks]
    files = sum(leaf.rest.nbytes for leaf in others if leaf.in_files)
    pageable = sum(leaf.rest.nbytes for leaf in others if not leaf.in_files)
    return TierReport(device, sum(block.nbytes for block in blocks.values()), pageable, files)


def refused_by_driver(tiers: Sequence[TierReport], pinning: Pinning | None) -> list[Diagnostic]:
    """Return a finding for each device that is sent memory its driver was to know and does not."""
    if pinning is None or not pinning.ended:
        return []
    short = [tier for tier in tiers if tier.device.startswith("cuda") and tier.pageable]
    return [_refused(tier) for tier in short]


def _refused(tier: TierReport) -> Diagnostic:
    message = (
        f"{human_size(tier.pageable)} are streamed to `{tier.device}` from memory that its driver does not "
        f"know: it took {human_size(tier.pinned)} and no more"
    )
    help_ = "raise the limit on locked memory (`ulimit -l unlimited`), or keep more on the card"
    return Diagnostic(NOT_PINNED, message, notes=("such copies are several times slower",), help=help_)

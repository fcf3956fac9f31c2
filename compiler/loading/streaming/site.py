"""A site: a module whose streamed tensors come and go together, and what was brought for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from ..blocks import is_card
from ..ring import Mark
from .arena import Lot
from .carrier import Carrier
from .lanes import Lane
from .loan import Loan
from .row_cache import RowCache
from .streamed import Stamp, Streamed
from .tally import Tally

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.utils.hooks import RemovableHandle


@dataclass(slots=True)
class Site:
    """A module and the tensors that are there while it runs."""

    path: str
    module: nn.Module
    streamed: list[Streamed] = field(default_factory=list[Streamed])
    made: Sequence[tuple[dict[str, Any], str, torch.Tensor]] = ()
    """What hooks make from them before each forward: attributes, with what they are at rest."""
    tally: Tally = field(default_factory=Tally)
    entries: list[RemovableHandle] = field(default_factory=list["RemovableHandle"])
    """The hooks by which it is entered and left."""

    @property
    def nbytes(self) -> int:
        """Bytes it takes while it runs."""
        return sum(one.nbytes for one in self.streamed)

    @property
    def sizes(self) -> Counter[torch.device]:
        """Bytes it takes of the streaming buffer of each device."""
        found: Counter[torch.device] = Counter()
        for one in self.streamed:
            found[one.device] += one.nbytes
        return found

    @property
    def moved(self) -> int:
        """Bytes that are copied to bring it."""
        return sum(one.nbytes for one in self.streamed if one.moves)

    @property
    def quick(self) -> bool:
        """Whether bringing it is only a matter of asking the card: nothing is read or converted first."""
        return all(
            is_card(leaf.device) and leaf.block is not None and leaf.block.pinned
            for one in self.streamed
            for leaf in one.leaves
        )

    def be_left_last(self) -> None:
        """Let hooks that came to the module later have the tensors too; the pass of the model ends later."""
        hooks: Any = self.module._forward_hooks  # noqa: SLF001  # ordered, as torch makes it
        key = self.entries[-1].id
        if self.path and key in hooks:
            hooks.move_to_end(key)

    def check(self) -> None:
        """Raise `PlanError` if a file the site is served from is not what it was; costs a microsecond."""
        files = {id(one.mapped.file): one for one in self.streamed if one.mapped is not None}
        pieces = [one for one in self.streamed if one.pieces is not None]
        for one in (*files.values(), *pieces):
            one.check()


Brought: TypeAlias = tuple[Streamed, Stamp, "torch.Tensor | None"]
"""A tensor, its stamp when it was copied, and the copy; None where what is at rest will do."""


@dataclass(frozen=True, slots=True)
class Cargo:
    """Memory of one device that a site's tensors are brought to."""

    carrier: Carrier
    lot: Lot | None
    """None where the streaming buffer had no gap: such memory is the allocator's."""


@dataclass(slots=True)
class Load:
    """What is brought for a site."""

    copies: Sequence[Brought] = ()
    cargo: list[Cargo] = field(default_factory=list[Cargo])
    marks: list[tuple[Lane, Mark]] = field(default_factory=list["tuple[Lane, Mark]"])
    """What computing has to wait for."""
    loan: Loan | None = None
    """The rows it has of some tensors."""
    cache: RowCache | None = None
    """Whose memory they are in, if not the streaming buffer's."""

    @property
    def sizes(self) -> Counter[torch.device]:
        """Bytes it takes of the streaming buffer of each device."""
        found: Counter[torch.device] = Counter()
        if self.loan is not None and self.cache is None:
            found[self.loan.device] = self.loan.nbytes
        for _, _, copy in self.copies:
            if copy is not None:
                found[copy.device] += copy.nbytes
        return found

    def join(self) -> None:
        """Let this thread's computing wait until everything is there."""
        for lane, mark in self.marks:
            lane.join(mark)

    def give_back(self, *, used: bool) -> None:
        """Hand the memory back; what was never used is free once the copies to it are over."""
        while self.cargo:
            cargo = self.cargo.pop()
            if cargo.lot is not None:
                carrier = cargo.carrier
                carrier.arena.give(cargo.lot, carrier.lane.mark() if used else None)
        if used and self.cache is not None:
            self.cache.was_used()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Hand the memory back if what is done with it fails: nothing of it is used then."""
        try:
            yield
        except BaseException:
            self.give_back(used=False)
            raise

    def is_current(self, site: Site) -> bool:
        """Say whether it is what is at rest now: a forward may write between its modules too."""
        if len(self.copies) != len(site.streamed):
            return False
        rows = zip(site.streamed, self.copies, strict=True)
        return all(one is now and stamp == now.stamp for now, (one, stamp, _) in rows)

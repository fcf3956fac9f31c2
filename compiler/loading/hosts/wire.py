"""Tensors from host to host: one message each, counted; hosts that are gone or give up are named.

Both ends know shape and dtype, so nothing but the bytes travels. Sending does not wait: a process goes on
with what it computes next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ....ir import Diagnostic, PlanError
from ....ir.rules.hosts import FAILED_ELSEWHERE, LOST_HOST
from .between_cards import Card, backend_between, card_here
from .connections import Connections, Ended


class Wire:
    """The connections of one process; hosts are numbered as the plan lists them."""

    def __init__(
        self, hosts: Sequence[str], me: int, connections: Connections, ranks: Sequence[int] | None = None
    ) -> None:
        self.hosts, self.me, self.connections = tuple(hosts), me, connections
        self.ranks = tuple(range(len(hosts)) if ranks is None else ranks)
        self.sent: Counter[int] = Counter()
        self.received: Counter[int] = Counter()
        self.messages: Counter[int] = Counter()
        """Tensors that went to or came from each host."""
        self._carrier = torch.device("cpu")
        """The device that tensors leave from and come to."""
        self._direct = False

    def start_from(self, device: torch.device) -> None:
        """Let tensors go from device to device where every host has a card of its own; all do this."""
        backend = backend_between([Card(*told) for told in self.exchange(tuple(card_here(device)))])
        if backend is not None:
            with self._naming():
                self.connections.go_over(backend, device)
            self._carrier, self._direct = device, True

    def send(self, tensor: torch.Tensor, target: int) -> None:
        """Send a tensor to a host and return at once."""
        flat = _bytes(tensor.detach().to(self._carrier).contiguous())
        self.sent[target] += flat.numel()
        self.messages[target] += 1
        if flat.numel():
            with self._naming():
                self.connections.send(flat, self.ranks[target], direct=self._direct)

    def receive(self, like: torch.Tensor, origin: int, device: torch.device) -> torch.Tensor:
        """Return the next tensor a host sends, shaped like a tensor without values."""
        made = torch.empty(like.shape, dtype=like.dtype, device=self._carrier)
        flat = _bytes(made)
        self.received[origin] += flat.numel()
        self.messages[origin] += 1
        if flat.numel():
            with self._naming():
                self.connections.receive(flat, self.ranks[origin], direct=self._direct)
        return made.to(device)

    def exchange(self, value: object) -> list[Any]:
        """Return what every host gives here, in the order of the hosts."""
        with self._naming():
            found = self.connections.exchange(value)
        return [found[rank] for rank in self.ranks]

    def settle(self) -> None:
        """Return when everything that was sent has arrived."""
        with self._naming():
            self.connections.settle()

    @contextmanager
    def giving_up(self) -> Iterator[None]:
        """Let the others know if what every host does here fails on this one, or is interrupted."""
        try:
            yield
        except BaseException as error:
            self.connections.give_up(error)
            raise

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """Tell what happened to another process by the name of its host."""
        try:
            yield
        except Ended as end:
            raise self._told(end.rank, end.words) from None

    def _told(self, rank: int | None, words: str | None) -> PlanError:
        if rank is None:
            return _lost("the process of another host is gone")
        host = self.hosts[self.ranks.index(rank)]
        name = host if host == f"rank {rank}" else f"`{host}` (rank {rank})"
        if words is not None:
            return _failed(name, words)
        return _lost(f"the process of {name} is gone" if rank != self.ranks[self.me] else _HERE)


_HERE = "this process was interrupted, or stood still, and the others went on without it"


def _lost(message: str) -> PlanError:
    note = "what was being computed is lost; weights and files are as they were"
    help_ = "start all hosts again with torchrun; the lost one's own output says why it ended"
    return PlanError([Diagnostic(LOST_HOST, message, notes=(note,), help=help_)])


def _failed(name: str, words: str) -> PlanError:
    note = "what was being computed is lost; weights are as they were, and the next call begins anew"
    help_ = "mend what failed there, or give every host the same arguments"
    return PlanError(
        [Diagnostic(FAILED_ELSEWHERE, f"a call failed on {name}: {words}", notes=(note,), help=help_)]
    )


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)

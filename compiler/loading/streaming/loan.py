"""Rows in the places of a module's tables while it computes, and its settings as if they were all.

Only what the module itself registers is exchanged: another that is tied to a table has all of it meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .choosers import settings_of
from .streamed import Home, Streamed
from .write_marks import mark_of_writes

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """A tensor that rows are chosen from, and where its module has it."""

    one: Streamed
    homes: Sequence[Home]

    @property
    def rests(self) -> bool:
        """Whether it is there, and at rest; adapters of weights put something made from it in its place."""
        one = self.one
        return not one.users and all(table.get(name) is one.tensor for table, name in self.homes)


def tables_of(module: nn.Module, streamed: Sequence[Streamed], names: Sequence[str]) -> list[Table]:
    """Return what a module has by some names, of what is streamed."""
    ids = {id(getattr(module, name)) for name in names}
    own = (id(module._parameters), id(module._buffers))  # noqa: SLF001
    return [
        Table(one, [home for home in one.homes if id(home[0]) in own])
        for one in streamed
        if id(one.tensor) in ids
    ]


class Loan:
    """Rows a module has for a call; those of a cache for many, until one writes to them."""

    def __init__(
        self, module: nn.Module, rows: Sequence[tuple[Table, torch.Tensor]], settings: Mapping[str, Any]
    ) -> None:
        self._module, self._rows = module, rows
        self._settings = settings_of(module, settings)
        self.device, self.nbytes = rows[0][1].device, sum(value.nbytes for _, value in rows)
        self._states: list[tuple[object, ...]] = []
        self._lent = False

    def begin(self) -> None:
        """Let the module have them."""
        self._lent, self._states = True, self._states or [mark_of_writes(value) for _, value in self._rows]
        for table, value in self._rows:
            table.one.give_up(table.homes)
            for home, name in table.homes:
                home[name] = value
        self._settings.__enter__()

    def spoiled(self) -> list[str]:
        """Name what the forward wrote to, or registered something else for: what rests is more than rows."""
        return [
            name
            for (table, value), state in zip(self._rows, self._states, strict=False)
            for home, name in table.homes
            if home.get(name) is not value or mark_of_writes(value) != state
        ]

    def end(self) -> None:
        """Put back what is at rest, if that was not done."""
        if not self._lent:
            return
        self._lent = False
        self._settings.__exit__()
        for table, _ in self._rows:
            for _, name in table.homes:
                self._module.__dict__.pop(name, None)  # a plain attribute in its place would hide it
            table.one.take_back(table.homes)

"""Modules that need only some rows of their weights, and how a call says which.

The experts classes of transformers say what they are by what `use_experts_implementation` gives them:
whichever implementation a model is set to computes with a stack of the chosen experts as it does with
all of them, if the choice is numbered anew. So does a table that is looked up; whether a class really
only looks up is tried once, on a few rows.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import torch
from torch import nn

from ..blocks import is_card

Args: TypeAlias = tuple[Any, ...]
Kwargs: TypeAlias = dict[str, Any]
_CONTRACT: Final = ("has_gate", "has_bias", "is_transposed", "config")
_FEW: Final = 256
"""Choices that Python numbers in less time than torch is asked to."""
_EXPERTS_ARGS: Final = 3
"""What is computed with, what is chosen for each token, how much each choice counts."""


@dataclass(frozen=True, slots=True)
class NamedArguments:
    """The arguments of a call by the names its module gives them."""

    names: tuple[str, ...]
    args: Args
    kwargs: Kwargs

    def __getitem__(self, name: str) -> torch.Tensor:
        """Return an argument."""
        found: torch.Tensor = self.kwargs[name] if name in self.kwargs else self.args[self.names.index(name)]
        return found

    def having(self, changed: Mapping[str, torch.Tensor]) -> tuple[Args, Kwargs]:
        """Return the arguments with some of them changed."""
        kwargs = {name: changed.get(name, value) for name, value in self.kwargs.items()}
        rows = zip(self.names, self.args, strict=False)
        return tuple(changed.get(name, value) for name, value in rows), kwargs


@dataclass(frozen=True, slots=True)
class Chooser:
    """What there is to know of a module that takes rows."""

    tables: tuple[str, ...]
    """Its tensors whose first dimension is chosen from."""
    count: int
    names: tuple[str, ...]
    """Of its arguments, in order."""
    index: str
    """The argument that chooses."""
    experts: bool
    """Whether results of parts of a choice add up, so that a long one may be taken in turns."""

    def call(self, args: Args, kwargs: Kwargs) -> NamedArguments:
        """Return a call's arguments by name."""
        return NamedArguments(self.names, args, kwargs)

    def settings(self, rows: int) -> dict[str, Any]:
        """Return what the module's attributes are while it has that many rows."""
        return {"num_experts": rows} if self.experts else {"num_embeddings": rows, "padding_idx": None}


def chooser_of(module: nn.Module) -> Chooser | None:
    """Return how a module chooses rows; None where it needs all of its weights."""
    return _experts(module) or _lookup(module)


def _experts(module: nn.Module) -> Chooser | None:
    count = getattr(module, "num_experts", None)
    known = isinstance(count, int) and all(hasattr(module, name) for name in _CONTRACT)
    names = tuple(inspect.signature(module.forward).parameters)
    own = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
    tables = tuple(name for name, tensor in own.items() if tensor.dim() and tensor.shape[0] == count)
    spread = getattr(module, "_is_expert_parallel", False)  # since transformers 5.18
    if not known or not tables or len(names) != _EXPERTS_ARGS or spread:
        return None
    return Chooser(tables, int(count or 0), names, names[1], experts=True)


def _lookup(module: nn.Module) -> Chooser | None:
    if not isinstance(module, nn.Embedding) or module.max_norm is not None:
        return None
    names = tuple(inspect.signature(module.forward).parameters)
    found = Chooser(("weight",), module.num_embeddings, names, names[0], experts=False)
    return found if module.num_embeddings and _only_looks_up(module, found) else None


def _only_looks_up(module: nn.Embedding, chooser: Chooser) -> bool:
    """Try whether the rows of a few numbers are all a module needs to compute what it does with the table."""
    last = module.num_embeddings - 1
    padding = last if module.padding_idx is None else module.padding_idx
    ids = torch.tensor([[0, last, last // 2, padding, 0]])
    table = module._parameters["weight"]  # noqa: SLF001
    try:
        with torch.inference_mode(mode=False), torch.no_grad():
            expected = type(module).forward(module, ids)
            rows, again = torch.unique(ids, return_inverse=True)
            module._parameters["weight"] = nn.Parameter(module.weight[rows], requires_grad=False)  # noqa: SLF001
            with settings_of(module, chooser.settings(len(rows))):
                found = type(module).forward(module, again)
    except Exception:  # noqa: BLE001  # of a class of any kind: then all of it is brought
        return False
    finally:
        module._parameters["weight"] = table  # noqa: SLF001
    return torch.equal(found, expected)


class settings_of:  # noqa: N801  # used as a function
    """Let a module's attributes be others for a while."""

    def __init__(self, module: nn.Module, settings: Mapping[str, Any]) -> None:
        self._module, self._settings = module, settings
        self._before: dict[str, Any] = {}

    def __enter__(self) -> None:
        """Change them."""
        table = self._module.__dict__
        self._before = {name: table[name] for name in self._settings if name in table}
        table.update({name: self._settings[name] for name in self._before})

    def __exit__(self, *_: object) -> None:
        """Change them back."""
        self._module.__dict__.update(self._before)


class Choice:
    """What a call chose: the one thing that a device is waited for."""

    def __init__(self, index: torch.Tensor) -> None:
        self._index = index
        self._told = index.to("cpu")
        self._few = self._told.view(-1).tolist() if index.numel() <= _FEW else None
        self.rows: list[int] = sorted(set(self._few)) if self._few else torch.unique(self._told).tolist()
        """Sorted, each once."""

    def numbered(self, places: Sequence[int]) -> torch.Tensor:
        """Return the choice with each row's place for its number."""
        if self._few is None:
            again = torch.searchsorted(torch.tensor(self.rows), self._told)
            return self._sent(torch.tensor(places)[again])
        place_of = dict(zip(self.rows, places, strict=True))
        numbers = torch.tensor([place_of[row] for row in self._few], dtype=self._told.dtype)
        return self._sent(numbers.view(self._told.shape))

    def turns(self, of: int) -> list[list[int]]:
        """Return the rows in turns of at most a number each."""
        return [self.rows[first : first + max(1, of)] for first in range(0, len(self.rows), max(1, of))]

    def pairs_of(self, rows: Sequence[int]) -> list[torch.Tensor]:
        """Return where some rows are chosen: tokens, which of their choices, and the row numbered anew."""
        wanted = torch.tensor(rows)
        token, which = torch.isin(self._told, wanted).nonzero(as_tuple=True)
        row = torch.searchsorted(wanted, self._told[token, which])
        return [self._sent(each) for each in (token, which, row)]

    def _sent(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return numbers like the choice; a card takes them when it is asked, and is not waited for."""
        at_once = is_card(self._index.device)
        return numbers.to(self._index.device, self._index.dtype, non_blocking=at_once)

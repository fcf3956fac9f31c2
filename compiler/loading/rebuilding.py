"""Tensors that are in no checkpoint, made again: by the model's own initialisation or a constructor.

Every value is made twice, from memory filled with different numbers. Only what comes out the same
both times is used: neither uninitialised memory nor random numbers pass. The model is not touched.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cached_property, partial
from typing import Any, Final, TypeAlias

import torch
from torch import nn

from ...ir import Diagnostic, Diagnostics, join_path
from ...ir.rules.loading import UNFILLED_TENSOR
from ...ir.wording import in_words
from .attributes import attributes_of, hook_that_makes
from .seats import Slot, live_modules, live_tensors
from .twins import (
    FilledMemory,
    constructor_arguments,
    hollow,
    looks_like,
    parameters_on_meta,
    same_random_state,
    usual_dtype,
    usual_dtypes,
)

Materialize: TypeAlias = Callable[[str, torch.Tensor], "torch.Tensor | None"]
_FILLS: Final = (0, 1)
_SEED: Final = 0
"""New weights are the same at every load, as plans are at every compile."""
_MOST_FRESH: Final = 1 << 31
"""Numbers of a module that is initialised anew: it is made in memory twice."""


def rebuild(
    slots: Sequence[Slot],
    model: nn.Module,
    materialize: Materialize | None,
    diagnostics: Diagnostics,
    fresh: Collection[str] = (),
) -> dict[str, torch.Tensor]:
    """Return a CPU tensor for each slot by its first path; those nothing could make are reported.

    What is ``fresh`` may be filled with random numbers: it is a part nobody has trained yet.
    """
    made: dict[str, torch.Tensor] = {}
    lost: list[str] = []
    makers = _Makers(model)
    with same_random_state():
        for slot in slots:
            value = _value(slot, makers, materialize)
            if value is None and slot.paths[0] in fresh:
                value = _fresh(slot, makers)
            if value is None:
                lost.append(slot.paths[0])
            else:
                made[slot.paths[0]] = value
    _report(lost, diagnostics)
    return made


def attributes_on_meta(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, torch.Tensor]]:
    """Yield tensors on the meta device that modules hold as plain attributes and nothing else gives."""
    registered = {id(tensor) for tensor in live_tensors(model).values()}
    once = {id(module): (path, module) for path, module in reversed(live_modules(model).items())}
    for path, module in reversed(once.values()):
        for name, value in attributes_of(module):
            if value.is_meta and id(value) not in registered and hook_that_makes(module, name) is None:
                yield join_path(path, name), module, name, value


def rebuild_attributes(
    model: nn.Module, materialize: Materialize | None, diagnostics: Diagnostics
) -> list[tuple[nn.Module, str, torch.Tensor]]:
    """Return a CPU tensor for each plain attribute on the meta device; what cannot be made is reported."""
    made: list[tuple[nn.Module, str, torch.Tensor]] = []
    lost: list[str] = []
    makers = _Makers(model)
    with same_random_state():
        for path, module, name, tensor in attributes_on_meta(model):
            value = None if materialize is None else materialize(path, tensor)
            if value is None:
                tries = (_twice(maker, tensor) for maker in makers.by_constructors(path))
                value = next((one for one in tries if one is not None), None)
            if value is None:
                lost.append(path)
            else:
                made.append((module, name, value))
    _report(lost, diagnostics)
    return made


def _report(lost: Sequence[str], diagnostics: Diagnostics) -> None:
    if lost:
        names = in_words(lost, 8)
        message = f"{len(lost)} tensors are in no checkpoint and cannot be made again: {names}"
        help_ = "pass the checkpoint that has them, or `materialize`, a function of path and meta tensor"
        diagnostics.add(Diagnostic(UNFILLED_TENSOR, message, help=help_))


def _value(slot: Slot, makers: _Makers, materialize: Materialize | None) -> torch.Tensor | None:
    if materialize is not None:
        given = materialize(slot.paths[0], slot.tensor)
        if given is not None and not given.is_meta and given.shape == slot.tensor.shape:
            return given.detach().to(slot.dtype)
    for path in slot.live:
        owner, _, name = path.rpartition(".")
        if name not in makers.modules[owner]._buffers:  # noqa: SLF001  # a parameter without a source is no constant
            continue
        for maker in makers.of(path):
            value = _twice(maker, slot.tensor)
            if value is not None:
                return value.to(slot.dtype)
    return None


def _fresh(slot: Slot, makers: _Makers) -> torch.Tensor | None:
    """Return what the model's initialisation writes to a parameter; None if it does not write all of it."""
    for path in slot.live:
        value = _twice(partial(makers.fresh, path), slot.tensor)
        if value is not None:
            return value.to(slot.dtype)
    return None


_Maker: TypeAlias = Callable[[int], "torch.Tensor | None"]
"""Makes a value in memory filled with a number."""


class _Makers:
    """The ways to make a tensor of a model again, each with the initialisation and configuration it is under.

    A model may have others inside it, with their own; and it may leave the buffers of a module to be
    written by the initialisation of one above.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._hollows: dict[tuple[str, int], nn.Module | None] = {}
        self._twins: dict[tuple[str, torch.dtype, int], nn.Module | None] = {}

    @cached_property
    def modules(self) -> dict[str, nn.Module]:
        """Every module by every path; most models have nothing to make, and nobody asks."""
        return live_modules(self._model)

    def of(self, path: str) -> Iterator[_Maker]:
        """Yield what may make the buffer at a path, the nearest first."""
        for start in _upwards(path.rpartition(".")[0]):
            yield partial(self.initialised, start, path)
        yield from self.by_constructors(path)

    def by_constructors(self, path: str) -> Iterator[_Maker]:
        """Yield what makes a tensor as a constructor does: its module's, or that of one above it.

        Each is tried with torch's usual dtype and with that of the weights: either may have been set.
        """
        for start in _upwards(path.rpartition(".")[0]):
            for dtype in usual_dtypes(self.modules[start]):
                yield partial(self.constructed, start, dtype, path)

    def initialised(self, start: str, path: str, fill: int) -> torch.Tensor | None:
        """Return a buffer as transformers' own `_init_weights` of a module at or above it writes it."""
        if (start, fill) not in self._hollows:
            self._hollows[start, fill] = None  # what fails once is not tried for every buffer
            self._hollows[start, fill] = self._initialised(start, fill)
        made = self._hollows[start, fill]
        return None if made is None else made.get_buffer(path.removeprefix(start).removeprefix("."))

    def _initialised(self, start: str, fill: int) -> nn.Module | None:
        initialise = self._nearest(start, "_init_weights")
        if initialise is None:
            return None
        twin = hollow(self.modules[start], fill)
        initialise(twin)
        return twin

    def fresh(self, path: str, fill: int) -> torch.Tensor | None:
        """Return a parameter as `_init_weights` writes it for its module; the same at each call."""
        owner, _, name = path.rpartition(".")
        initialise = self._nearest(owner, "_init_weights")
        module = self.modules[owner]
        if initialise is None or sum(p.numel() for p in module.parameters()) > _MOST_FRESH:
            return None
        twin = hollow(module, fill, real=True)
        torch.manual_seed(_SEED)
        initialise(twin)
        return twin.get_parameter(name).detach()

    def constructed(self, start: str, dtype: torch.dtype, path: str, fill: int) -> torch.Tensor | None:
        """Return a tensor as the constructor of the module at or above it makes it."""
        key = start, dtype, fill
        if key not in self._twins:
            self._twins[key] = None
            self._twins[key] = self._constructed(*key)
        twin = self._twins[key]
        owner, _, name = path.removeprefix(start).removeprefix(".").rpartition(".")
        found = None if twin is None else getattr(twin.get_submodule(owner), name, None)
        return found if isinstance(found, torch.Tensor) else None

    def _constructed(self, start: str, dtype: torch.dtype, fill: int) -> nn.Module | None:
        """Run the constructor of a module with the arguments its attributes show."""
        module = self.modules[start]
        arguments = constructor_arguments(module, copy.copy(self._nearest(start, "config")))
        if arguments is None:
            return None
        with parameters_on_meta(), torch.device("cpu"), usual_dtype(dtype), FilledMemory(fill):
            twin = type(module)(**arguments)
        twin.train(module.training)
        return twin if looks_like(twin, module) else None

    def _nearest(self, path: str, attribute: str) -> Any:  # noqa: ANN401  # whatever a model has there
        """Return an attribute of the nearest module that has it, from a path upwards."""
        values = (getattr(self.modules[above], attribute, None) for above in _upwards(path))
        return next((value for value in values if value is not None), None)


def _upwards(path: str) -> Iterator[str]:
    """Yield a module's path and those of all above it, down to the root's, which is empty."""
    while path:
        yield path
        path = path.rpartition(".")[0]
    yield ""


def _twice(maker: _Maker, like: torch.Tensor) -> torch.Tensor | None:
    """Make a value from two different starts; None unless both agree."""
    values: list[torch.Tensor] = []
    for fill in _FILLS:
        try:
            value = maker(fill)
        except Exception:  # noqa: BLE001  # whatever a constructor of the user's raises: it cannot be used
            return None
        if value is None or value.is_meta or value.shape != like.shape or value.dtype != like.dtype:
            return None
        values.append(value.detach().clone())
    same = torch.equal(_as_bytes(values[0]), _as_bytes(values[1]))
    return values[0] if same else None


def _as_bytes(value: torch.Tensor) -> torch.Tensor:
    return value.contiguous().view(-1).view(torch.uint8) if value.numel() else value

"""The moments of a workload: a prompt is read, then tokens are written one after another.

Reading a prompt has the largest activations, writing has the longest cache; both are traced, each in
the sizes it happens in. While tokens are written the cache of each layer is made anew, so for a
moment it is there twice: the trace of one token sees that.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from ...ir import Diagnostics
from ..running.nesting import Untyped
from .forward import Ran, run, try_run
from .inputs.config_inputs import plain_model
from .inputs.example_inputs import Inputs
from .record import Recorder
from .results import cache_of, state_of, unique
from .trace import Trace

_TOKENS: Final = ("decoder_input_ids", "input_ids")
"""What is written, the nearer to the output first."""
_LAST_ONLY: Final = ("logits_to_keep", "num_logits_to_keep")
"""Arguments by which generation asks for the scores of the last position alone."""


@dataclass(frozen=True, slots=True)
class Moments:
    """What a workload does to memory."""

    main: Trace
    """The whole forward: its dataflow is that of the model."""
    later: tuple[Trace, ...] = ()
    """One token written when the cache is at its longest; empty where nothing is written."""
    cache_nbytes: tuple[int, ...] | None = None
    """Bytes of each value of ``main.cache`` at its longest; None: as the forward left it."""

    @property
    def traces(self) -> tuple[Trace, ...]:
        """Every moment."""
        return (self.main, *self.later)


def try_moments(
    model: nn.Module,
    inputs: Inputs,
    diagnostics: Diagnostics,
    *,
    batch: int = 1,
    seq: int | None = None,
    dtype: str | None = None,
    generate: bool = False,
    total: int | None = None,
) -> Moments | None:
    """Trace what a workload does; None, with a finding, where the forward cannot be traced.

    ``generate`` asks for the last position's scores as generation does; ``total`` is the length of the
    cache when the last token is written, prompt included; None leaves it at what one forward fills.
    """
    extra = {name: 1 for name in _LAST_ONLY if generate and name in _accepted(model)}
    ran = try_run(model, inputs, diagnostics, batch=batch, seq=seq, dtype=dtype, extra=extra)
    if ran is None:
        return None
    return Moments(ran.trace) if total is None else _with_writing(ran, total)


def _accepted(model: nn.Module) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(plain_model(model).forward).parameters


def _with_writing(ran: Ran, total: int) -> Moments:
    """Fill the cache to its full length without watching, then watch one token being written.

    A model that does not go on from its own state as transformers' do has no such moment.
    """
    kept, name = len(ran.trace.cache), _written(ran)
    if name is None or not kept:
        return Moments(ran.trace)
    try:
        sizes, later = _last_token(ran, name, total)
    except Exception:  # noqa: BLE001  the model's own code may raise anything; the prompt's moment stands
        return Moments(ran.trace)
    return Moments(ran.trace, later, sizes if len(sizes) == kept else None)


def _last_token(ran: Ran, name: str, total: int) -> tuple[tuple[int, ...], tuple[Trace, ...]]:
    """Return the bytes of the cache when it is ``total`` tokens long, and the trace of the last of them."""
    length = ran.kwargs[name].shape[1]
    if total <= length:  # a shorter cache was asked for than the prompt fills
        shorter = {each: _tokens(ran, each, total) for each in _TOKENS if each in ran.kwargs}
        return _kept(_again(ran, {**ran.kwargs, **shorter})), ()
    before = ran if total - length == 1 else _again(ran, _next(ran, name, total - length - 1))
    last = _again(before, _next(before, name, 1))
    return _kept(last), (last.trace,)


def _again(ran: Ran, kwargs: dict[str, Untyped]) -> Ran:
    return run(ran.shadow, Recorder(ran.shadow.tree), (), kwargs, before=ran.result)


def _kept(ran: Ran) -> tuple[int, ...]:
    return tuple(tensor.nbytes for tensor in unique(cache_of(ran.result)))


def _tokens(ran: Ran, name: str, count: int) -> Tensor:
    given = ran.kwargs[name]
    return torch.ones(given.shape[0], count, dtype=given.dtype, device="meta")


def _written(ran: Ran) -> str | None:
    """Return the name of the tokens a model was given as rows of a text; None if there are none."""
    given = [(name, ran.kwargs.get(name)) for name in _TOKENS]
    return next((name for name, item in given if isinstance(item, Tensor) and item.dim() == 2), None)


def _next(ran: Ran, name: str, count: int) -> dict[str, Untyped]:
    """Return the arguments of a call that goes on by so many tokens from what the last one kept."""
    found = state_of(ran.result)
    if found is None:
        msg = "nothing is kept for the next call"
        raise LookupError(msg)
    same = {key: ran.kwargs[key] for key in (*_LAST_ONLY, "encoder_outputs") if key in ran.kwargs}
    encoded = ran.result.get("encoder_last_hidden_state") if isinstance(ran.result, Mapping) else None
    encoder = {} if encoded is None else {"encoder_outputs": (encoded,)}
    return {**same, **encoder, name: _tokens(ran, name, count), found[0]: found[1]}

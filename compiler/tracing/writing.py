"""Calls that go on from what a former one kept: a text begun, lengthened, and its last token watched."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import torch
from torch import Tensor

from ..running.nesting import Untyped
from .generating import MASK, POSITIONS, prepared, with_next
from .inputs.config_inputs import plain_model
from .one_run import Ran, run
from .record import Recorder
from .results import cache_of, state_of, unique
from .trace import Trace

_TOKENS: Final = ("decoder_input_ids", "input_ids")
"""What is written, the nearer to the output first."""
LAST_ONLY: Final = ("logits_to_keep", "num_logits_to_keep")
"""Arguments by which generation asks for the scores of the last position alone."""


class _Encoded(tuple[Tensor]):
    """What an encoder made of the prompt, by number and by name: models ask for it in both ways."""

    __slots__ = ()
    hidden_states = attentions = router_logits = router_probs = None

    @property
    def last_hidden_state(self) -> Tensor:
        """The result of the last layer."""
        return self[0]


def begun(ran: Ran) -> Ran:
    """Run the forward with one token for the decoder where an encoder reads the prompt: so writing begins."""
    given = ran.kwargs.get(_TOKENS[0])
    if not isinstance(given, Tensor) or given.dim() != 2 or given.shape[1] == 1:
        return ran
    try:
        return run(ran.shadow, as_before(ran), ran.args, {**ran.kwargs, _TOKENS[0]: given[:, :1].clone()})
    except Exception:  # noqa: BLE001  the model's own code may raise anything; then the longer text stands
        return ran


def lengthened(ran: Ran, name: str, total: int) -> tuple[int, ...]:
    """Return the bytes of the cache where no run tells them: what is as long as the prompt grows with it.

    Caches hold rows x heads x tokens x numbers; tokens of the model's own may stand before the prompt's.
    """
    length, found = ran.kwargs[name].shape[1], []
    for tensor in unique(cache_of(ran.result)):
        held = tensor.shape[-2] if tensor.dim() > 2 else 0
        more = total - length if held >= length else 0
        found.append(tensor.nbytes * (held + more) // held if more else tensor.nbytes)
    return tuple(found)


def last_token(ran: Ran, name: str, total: int) -> tuple[tuple[int, ...], tuple[Trace, ...]]:
    """Return the bytes of the cache when it is ``total`` tokens long, and the trace of the last of them."""
    length = ran.kwargs[name].shape[1]
    if total <= length:  # a shorter cache was asked for than the prompt fills
        shorter = {each: _tokens(ran, each, total) for each in _TOKENS if each in ran.kwargs}
        beside = {each: ran.kwargs.get(each) for each in (MASK, POSITIONS)}
        shorter |= {n: item[:, :total] for n, item in beside.items() if isinstance(item, Tensor)}
        return _kept(_again(ran, {**ran.kwargs, **shorter})), ()
    before, between = ran, total - length - 1
    alone = between > 1 and _has_windows(ran)
    for count in (between - 1, 1) if alone else (between,) * (between > 0):
        before = _again(before, _next(before, name, count))
    last = _again(before, _next(before, name, 1))
    return _kept(last), (last.trace,)


def read_again(ran: Ran, name: str, total: int) -> tuple[Trace, ...]:
    """Return the trace of the last token of a text of which nothing is kept: all before it is read again.

    None of a model that keeps its state to itself, or was made to keep none so that it could be traced.
    """
    if ran.kwargs.get("use_cache") is False or getattr(plain_model(ran.shadow.model), "_is_stateful", False):
        return ()
    text = {**ran.kwargs, name: _tokens(ran, name, total)}
    if name != _TOKENS[0]:  # a mask and positions are those of the text; a decoder's mask is its encoder's
        text = {each: item for each, item in text.items() if each not in (MASK, POSITIONS)}
        text |= prepared(ran.shadow.model, text)
    with suppress(Exception):  # the model's own code may raise anything; the prompt's moment stands
        return (run(ran.shadow, as_before(ran), ran.args, text).trace,)
    return ()


def _has_windows(ran: Ran) -> bool:
    """Say whether layers keep a window: of many tokens at once they hold all until one comes alone."""
    _, state = state_of(ran.result) or ("", None)
    return any(getattr(layer, "is_sliding", False) for layer in getattr(state, "layers", ()))


def _again(ran: Ran, kwargs: dict[str, Untyped]) -> Ran:
    return run(ran.shadow, as_before(ran), (), kwargs, before=ran.result)


def as_before(ran: Ran) -> Recorder:
    """Return a recorder for another run of the model, which assumes what the first had to assume."""
    return Recorder(ran.shadow.tree, assume=ran.assumed)


def _kept(ran: Ran) -> tuple[int, ...]:
    return tuple(tensor.nbytes for tensor in unique(cache_of(ran.result)))


def _tokens(ran: Ran, name: str, count: int) -> Tensor:
    given = ran.kwargs[name]
    return torch.ones(given.shape[0], count, dtype=given.dtype, device="meta")


def written_name(ran: Ran) -> str | None:
    """Return the name of the tokens a model was given as rows of a text; None if there are none."""
    given = [(name, ran.kwargs.get(name)) for name in _TOKENS]
    return next((name for name, item in given if isinstance(item, Tensor) and item.dim() == 2), None)


def length_of(ran: Ran) -> int:
    """Return how many tokens a forward was given as a text."""
    name = written_name(ran)
    return 0 if name is None else int(ran.kwargs[name].shape[1])


def _next(ran: Ran, name: str, count: int) -> dict[str, Untyped]:
    """Return the arguments of a call that goes on by so many tokens from what the last one kept."""
    found = state_of(ran.result)
    if found is None:
        msg = "nothing is kept for the next call"
        raise LookupError(msg)
    same = {key: ran.kwargs[key] for key in (*LAST_ONLY, "encoder_outputs") if key in ran.kwargs}
    encoded = ran.result.get("encoder_last_hidden_state") if isinstance(ran.result, Mapping) else None
    encoder = {} if encoded is None else {"encoder_outputs": _Encoded((encoded,))}
    more = with_next(ran.shadow.model, ran.kwargs, found, count)
    return {**same, **encoder, **more, name: _tokens(ran, name, count), found[0]: found[1]}
